/* A server and a client of requests, so that what is measured is the way between them.
 *
 *   requests serve PORT
 *   requests ask ADDRESS PORT SECONDS CONNECTIONS new|keep   prints: requests a second; p10, median, p99 in us
 *   requests fetch ADDRESS PORT MEGABYTES                    prints: megabytes a second
 *
 * A request is 64 bytes, the first of them 'r', answered with 128; or 'f' and a number of megabytes, which are sent.
 * new: each request has a connection of its own, whose time counts. Build: cc -O2 -static */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ASKED = 64, ANSWERED = 128, MOST = 1024, SAMPLES = 1 << 22 };

static char buffer[1 << 20];
static long long left_to_send[65536]; /* by descriptor */
static long long began[65536];
static unsigned samples[SAMPLES]; /* us */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static long long now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void watch(int epoll, int fd, int change, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, change, fd, &event))
        fail("epoll_ctl");
}

static void at_once(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static int serve_one(int epoll, int fd)
{
    long got = left_to_send[fd] ? 0 : recv(fd, buffer, ASKED, 0);
    if (got == 0 && !left_to_send[fd])
        return -1;
    if (got < 0)
        return errno == EAGAIN ? 0 : -1;
    if (got && buffer[0] == 'f')
        left_to_send[fd] = atoll(buffer + 1) * 1000000;
    else if (got)
        return send(fd, buffer, ANSWERED, MSG_NOSIGNAL) == ANSWERED ? 0 : -1;
    while (left_to_send[fd]) {
        long some = left_to_send[fd] < (long long)sizeof buffer ? left_to_send[fd] : (long long)sizeof buffer;
        long sent = send(fd, buffer, some, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            watch(epoll, fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return 0;
        }
        if (sent < 0)
            return -1;
        left_to_send[fd] -= sent;
    }
    watch(epoll, fd, EPOLL_CTL_MOD, EPOLLIN);
    return 0;
}

static void serve(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event events[64];
    int one = 1, epoll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096))
        fail("listen");
    watch(epoll, listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int made = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (made >= 65536)
                    close(made);
                else if (made >= 0) {
                    left_to_send[made] = 0;
                    at_once(made);
                    watch(epoll, made, EPOLL_CTL_ADD, EPOLLIN);
                }
            } else if (serve_one(epoll, fd))
                close(fd);
        }
    }
}

static struct sockaddr_in place(char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    if (inet_pton(AF_INET, argv[0], &to.sin_addr) != 1)
        fail(argv[0]);
    return to;
}

static void fetch(char **argv)
{
    struct sockaddr_in to = place(argv);
    char asked[ASKED] = "f";
    long long total = 0, wanted = atoll(argv[2]) * 1000000;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (connect(fd, (struct sockaddr *)&to, sizeof to))
        fail("connect");
    snprintf(asked + 1, sizeof asked - 1, "%s", argv[2]);
    long long start = now_us();
    if (send(fd, asked, sizeof asked, 0) != sizeof asked)
        fail("send");
    while (total < wanted) {
        long got = recv(fd, buffer, sizeof buffer, 0);
        if (got <= 0)
            fail("recv");
        total += got;
    }
    printf("%.0f\n", total / (double)(now_us() - start));
}

static int compare(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

static void ask(int epoll, int fd)
{
    static const char asked[ASKED] = "r";
    if (send(fd, asked, sizeof asked, MSG_NOSIGNAL) != sizeof asked)
        fail("send");
    watch(epoll, fd, EPOLL_CTL_MOD, EPOLLIN);
}

/* A connection that is soon there; closed by a reset, which leaves no port behind. */
static int begin(int epoll, struct sockaddr_in *to)
{
    struct linger none = {1, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    if (fd < 0 || fd >= 65536)
        fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    at_once(fd);
    began[fd] = now_us();
    if (connect(fd, (struct sockaddr *)to, sizeof *to) && errno != EINPROGRESS)
        fail("connect");
    watch(epoll, fd, EPOLL_CTL_ADD, EPOLLOUT);
    return fd;
}

static void ask_all(char **argv)
{
    struct sockaddr_in to = place(argv);
    int keep = !strcmp(argv[4], "keep"), connections = atoi(argv[3]), epoll = epoll_create1(0);
    struct epoll_event events[MOST];
    long count = 0;
    long long start = now_us(), end = start + (long long)(atof(argv[2]) * 1e6);

    for (int i = 0; i < connections && i < MOST; i++)
        begin(epoll, &to);
    while (now_us() < end) {
        int ready = epoll_wait(epoll, events, MOST, 1000);
        if (ready == 0) {
            fprintf(stderr, "no answer within a second\n");
            exit(1);
        }
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (events[i].events & EPOLLOUT) {
                ask(epoll, fd);
                continue;
            }
            long got = recv(fd, buffer, ANSWERED, MSG_WAITALL);
            if (got != ANSWERED)
                fail(got ? "recv" : "closed");
            long long at = now_us();
            if (count < SAMPLES)
                samples[count] = (unsigned)(at - began[fd]);
            count++;
            if (keep) {
                began[fd] = at;
                ask(epoll, fd);
            } else {
                close(fd);
                begin(epoll, &to);
            }
        }
    }
    double took_s = (now_us() - start) / 1e6;
    long kept = count < SAMPLES ? count : SAMPLES;
    if (!kept)
        fail("nothing was answered");
    qsort(samples, kept, sizeof *samples, compare);
    printf("%.0f %u %u %u\n", count / took_s, samples[kept / 10], samples[kept / 2], samples[kept * 99 / 100]);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(atoi(argv[2]));
    else if (argc == 7 && !strcmp(argv[1], "ask"))
        ask_all(argv + 2);
    else if (argc == 5 && !strcmp(argv[1], "fetch"))
        fetch(argv + 2);
    else {
        fprintf(stderr, "usage: requests serve|ask|fetch ...\n");
        return 2;
    }
    return 0;
}
