/* Datagrams for the tests of containers: `udp serve PORT` sends back what it is sent and says who
   sent it; `udp ask HOST PORT TEXT` asks until it is answered, five times at most. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/time.h>

static int serve(int port) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)}, from;
    char text[2048];
    if (bind(s, (struct sockaddr *)&at, sizeof at)) return perror("bind"), 1;
    for (;;) {
        socklen_t len = sizeof from;
        ssize_t n = recvfrom(s, text, sizeof text, 0, (struct sockaddr *)&from, &len);
        if (n < 0) return perror("recvfrom"), 1;
        printf("%s said %.*s\n", inet_ntoa(from.sin_addr), (int)n, text);
        fflush(stdout);
        sendto(s, text, n, 0, (struct sockaddr *)&from, len);
    }
}

static int ask(const char *host, const char *port, const char *text) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    struct timeval patience = {.tv_sec = 2};
    char answer[2048];
    if (!inet_aton(host, &to.sin_addr)) return fprintf(stderr, "no address: %s\n", host), 2;
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(s, (struct sockaddr *)&to, sizeof to)) return perror("connect"), 1;
    for (int i = 0; i < 5; i++) {
        send(s, text, strlen(text), 0);
        ssize_t n = recv(s, answer, sizeof answer, 0);
        if (n > 0) return printf("answered %.*s\n", (int)n, answer), 0;
        perror("recv");
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) return serve(atoi(argv[2]));
    if (argc == 5 && !strcmp(argv[1], "ask")) return ask(argv[2], argv[3], argv[4]);
    return 2;
}
