/* The service that is measured: tells the time of its first instruction to the socket SOCKET, then waits for its end.
 * Build: cc -O2 -static; usage: probe ID SOCKET */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <signal.h>

int main(int argc, char **argv)
{
    struct timespec t;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char text[64];
    sigset_t ends;
    int number;

    clock_gettime(CLOCK_MONOTONIC, &t);
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    strncpy(to.sun_path, argc > 2 ? argv[2] : "", sizeof to.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int n = snprintf(text, sizeof text, "%s %lld", argv[1], t.tv_sec * 1000000000LL + t.tv_nsec);
    sendto(fd, text, (size_t)n, 0, (struct sockaddr *)&to, sizeof to);
    close(fd);
    sigwait(&ends, &number);
    return 0;
}
