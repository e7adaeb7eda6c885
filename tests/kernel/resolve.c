/* Print the addresses of a name as the C library finds them, or why not. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

int main(int count, char **words) {
    struct addrinfo hints, *found, *one;
    char text[64];
    if (count < 2) return 2;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    int code = getaddrinfo(words[1], NULL, &hints, &found);
    if (code) {
        printf("%s\n", gai_strerror(code));
        return 1;
    }
    for (one = found; one; one = one->ai_next) {
        void *at = one->ai_family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr
                                              : (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr;
        puts(inet_ntop(one->ai_family, at, text, sizeof text));
    }
    return 0;
}
