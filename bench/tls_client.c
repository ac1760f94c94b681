/*
 * tls_client: many full TLS handshakes at once, from one thread, as cheaply as a client can.
 *
 *   tls_client HOST PORT SNI CONNECTIONS SECONDS VERSION SIGALGS [GROUPS]
 *
 * VERSION is 1.2 or 1.3. A connection ends after its handshake (close_notify, then close) and the next one begins; no
 * session is resumed. One JSON object is printed: how many succeeded and failed, and the latency from connect() to the
 * client's Finished. It belongs to the benchmarks alone and links the system's OpenSSL, which is not the proxy's.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_SAMPLES 2000000
#define TIMEOUT_S 15.0

typedef struct {
    int fd;
    SSL *ssl;
    double started;
} Slot;

static SSL_CTX *context;
static struct sockaddr_in server;
static const char *sni;
static int poller;
static float *samples;
static size_t good, bad;
static char first_error[256];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    fprintf(stderr, "tls_client: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(2);
}

static void finish(Slot *slot) {
    if (slot->ssl != NULL)
        SSL_free(slot->ssl);
    if (slot->fd >= 0)
        close(slot->fd);
    slot->ssl = NULL;
    slot->fd = -1;
}

static void open_slot(Slot *slot) {
    int one = 1;
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = slot};

    slot->started = now();
    slot->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (slot->fd < 0)
        die("socket");
    setsockopt(slot->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(slot->fd, (struct sockaddr *)&server, sizeof server) != 0 && errno != EINPROGRESS)
        die("connect");
    slot->ssl = SSL_new(context);
    if (slot->ssl == NULL || !SSL_set_fd(slot->ssl, slot->fd) || !SSL_set_tlsext_host_name(slot->ssl, sni))
        die("SSL_new");
    SSL_set_connect_state(slot->ssl);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, slot->fd, &wanted) != 0)
        die("epoll_ctl");
}

static void note_failure(void) {
    unsigned long code = ERR_peek_last_error();
    bad++;
    if (first_error[0] == 0)
        ERR_error_string_n(code, first_error, sizeof first_error);
    ERR_clear_error();
}

/* Goes on with one handshake; when it has ended, for good or bad, the slot's next connection begins. */
static void drive(Slot *slot, int is_last_call) {
    int result = SSL_do_handshake(slot->ssl);
    if (result == 1) {
        if (good < MAX_SAMPLES)
            samples[good] = (float)((now() - slot->started) * 1e3);
        good++;
        SSL_shutdown(slot->ssl);
    } else {
        int why = SSL_get_error(slot->ssl, result);
        if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
            return;
        note_failure();
    }
    finish(slot);
    if (!is_last_call)
        open_slot(slot);
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) {
    size_t count = good < MAX_SAMPLES ? good : MAX_SAMPLES;
    return count == 0 ? 0 : samples[(size_t)(share * (double)(count - 1))];
}

static void make_context(const char *version, const char *sigalgs, const char *groups) {
    int number = strcmp(version, "1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, number) ||
        !SSL_CTX_set_max_proto_version(context, number) || !SSL_CTX_set1_sigalgs_list(context, sigalgs) ||
        !SSL_CTX_set1_groups_list(context, groups))
        die("bad version, signature algorithms or groups");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
}

int main(int argc, char **argv) {
    if (argc < 8)
        die("usage: tls_client HOST PORT SNI CONNECTIONS SECONDS VERSION SIGALGS [GROUPS]");
    int connections = atoi(argv[4]);
    double seconds = atof(argv[5]), begin = now(), end = begin + seconds;
    Slot *slots = calloc((size_t)connections, sizeof *slots);
    struct epoll_event ready[256];

    samples = malloc(MAX_SAMPLES * sizeof *samples);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (slots == NULL || samples == NULL || poller < 0 || connections < 1)
        die("out of resources");
    sni = argv[3];
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1)
        die("HOST is no IPv4 address");
    make_context(argv[6], argv[7], argc > 8 ? argv[8] : "X25519");
    for (int i = 0; i < connections; i++)
        open_slot(&slots[i]);
    while (now() < end) {
        int count = epoll_wait(poller, ready, 256, 100);
        for (int i = 0; i < count; i++)
            drive(ready[i].data.ptr, 0);
        for (int i = 0; count == 0 && i < connections; i++)
            if (now() - slots[i].started > TIMEOUT_S) { /* a server that hangs is a failure, not a pause */
                bad++;
                finish(&slots[i]);
                open_slot(&slots[i]);
            }
    }
    double elapsed = now() - begin;
    size_t count = good < MAX_SAMPLES ? good : MAX_SAMPLES;
    qsort(samples, count, sizeof *samples, by_size);
    printf("{\"good\": %zu, \"bad\": %zu, \"seconds\": %.3f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, "
           "\"error\": \"%s\"}\n",
           good, bad, elapsed, percentile(0.5), percentile(0.99), percentile(1.0), first_error);
    for (int i = 0; i < connections; i++)
        finish(&slots[i]);
    return 0;
}
