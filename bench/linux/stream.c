// What the Linux guest answers with where cllm runs tests/net/speed_app.py: a TCP sink on port
// 9000, which tells how much came, and a source on 9001, which sends as many bytes as asked for.
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SINK = 9000, SOURCE = 9001 };

static char piece[1 << 18];

static int listen_on(int port) {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(s, (struct sockaddr *)&address, sizeof address) || listen(s, 4)) {
        perror("stream");
        exit(1);
    }
    return s;
}

static void sink(int s) {
    long total = 0;
    ssize_t n;
    while ((n = read(s, piece, sizeof piece)) > 0) {
        total += n;
    }
    dprintf(s, "%ld\n", total);
}

static void source(int s) {
    char line[32] = "";
    size_t have = 0;
    ssize_t n;
    while (!memchr(line, '\n', have) && have < sizeof line - 1
        && (n = read(s, line + have, sizeof line - 1 - have)) > 0) {
        have += (size_t)n;
    }
    long left = atol(line);
    while (left > 0) {
        n = write(s, piece, left < (long)sizeof piece ? (size_t)left : sizeof piece);
        if (n <= 0) {
            return;
        }
        left -= n;
    }
}

int main(void) {
    // One process for each port; one connection at a time is all that is measured.
    int port = fork() ? SINK : SOURCE;
    int listening = listen_on(port);
    for (;;) {
        int s = accept(listening, NULL, NULL);
        if (s < 0) {
            continue;
        }
        (port == SINK ? sink : source)(s);
        close(s);
    }
}
