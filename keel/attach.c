/* Clients: output to each as Docker's frames, their input to the container's stdin.
 *
 * There is one chunk of output at a time, and each client keeps how much of it it has taken. Until
 * all have taken all of it nothing more is read from the container, so a slow client slows the
 * container down and no client needs a buffer of its own. The same holds the other way for stdin.
 * Sockets may be shared with the engine: they are never made non-blocking, each call is. */
#include "supervise.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    STDIN_BIT = 1 << STREAM_STDIN,
    OUTPUT_BITS = 1 << STREAM_STDOUT | 1 << STREAM_STDERR,
    /* Holds what a container leaves in its pipes (at most 1 MiB each for an unprivileged one). */
    WIDE_BYTES = 4 << 20,
    DISCARDS = 64,
};

static void close_client(struct supervision *sup, unsigned index) {
    struct client *client = &sup->clients[index];
    if (client->pending)
        sup->pending_clients--;
    client->pending = false;
    client->streams = 0;
    forget(sup, &client->socket);
    watch_streams(sup);
}

/* Wait for exactly what can be served now. */
static void watch_client(struct supervision *sup, unsigned index) {
    struct client *client = &sup->clients[index];
    bool reads = client->streams & STDIN_BIT && sup->input_start == sup->input_end;
    watch(sup, &client->socket, SOURCE_CLIENT, index,
          (reads ? EPOLLIN : 0) | (client->pending ? EPOLLOUT : 0));
}

void watch_clients(struct supervision *sup) {
    for (unsigned index = 0; index < MAX_CLIENTS; index++)
        watch_client(sup, index);
}

/* Watch the container's output unless a client has not taken the last chunk yet. */
void watch_streams(struct supervision *sup) {
    for (unsigned stream = STREAM_STDOUT; stream <= STREAM_STDERR; stream++)
        watch(sup, &sup->output[stream], SOURCE_OUTPUT, stream,
              sup->pending_clients ? UNWATCHED : EPOLLIN);
}

static void drop_streams(struct supervision *sup, unsigned index, uint32_t bits) {
    struct client *client = &sup->clients[index];
    if (client->socket.file < 0)
        return;
    client->streams &= ~bits;
    if (bits & OUTPUT_BITS && client->pending) {
        client->pending = false;
        sup->pending_clients--;
    }
    if (client->streams == 0)
        close_client(sup, index);
    else
        watch_client(sup, index);
    watch_streams(sup);
}

/* Take a client's socket. `mask`: bit 0 stdin, 1 stdout, 2 stderr. */
void attach_client(struct supervision *sup, int socket, uint32_t mask) {
    uint32_t streams = mask & (STDIN_BIT | OUTPUT_BITS);
    if (!sup->takes_stdin)
        streams &= OUTPUT_BITS;
    unsigned index = 0;
    while (index < MAX_CLIENTS && sup->clients[index].socket.file >= 0)
        index++;
    if (streams == 0 || index == MAX_CLIENTS) {
        close(socket);
        return;
    }
    struct client *client = &sup->clients[index];
    *client = (struct client){
        .socket = {socket, UNWATCHED},
        .streams = streams,
        .input_only = streams == STDIN_BIT,
    };
    watch_client(sup, index);
}

/* Give the client what it has not taken of the current frame. */
static void push(struct supervision *sup, unsigned index) {
    struct client *client = &sup->clients[index];
    const size_t header = sizeof sup->frame_header;
    while (client->sent < header + sup->frame_length) {
        size_t in_header = client->sent < header ? client->sent : header;
        size_t in_chunk = client->sent - in_header;
        struct iovec parts[2] = {
            {sup->frame_header + in_header, header - in_header},
            {sup->chunk + in_chunk, sup->frame_length - in_chunk},
        };
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t sent = sendmsg(client->socket.file, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            watch_client(sup, index);
            return;
        }
        if (sent < 0) {
            drop_streams(sup, index, OUTPUT_BITS);
            return;
        }
        client->sent += (size_t)sent;
    }
    client->pending = false;
    sup->pending_clients--;
    watch_client(sup, index);
    watch_streams(sup);
}

static void distribute(struct supervision *sup, unsigned stream, size_t length) {
    sup->frame_header[0] = (unsigned char)stream;
    for (int i = 0; i < 4; i++)
        sup->frame_header[4 + i] = (unsigned char)(length >> (24 - 8 * i));
    sup->frame_length = length;
    for (unsigned index = 0; index < MAX_CLIENTS; index++) {
        struct client *client = &sup->clients[index];
        if (client->socket.file < 0 || !(client->streams & 1u << stream))
            continue;
        client->sent = 0;
        client->pending = true;
        sup->pending_clients++;
        push(sup, index);
    }
}

/* Carry one chunk from the container to the log and to the clients. */
void serve_output(struct supervision *sup, int stream) {
    if (sup->pending_clients > 0 || sup->output[stream].file < 0)
        return;
    ssize_t length = read(sup->output[stream].file, sup->chunk, sizeof sup->chunk);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (length <= 0) { /* EIO: every slave of the terminal is closed */
        end_output(sup, stream);
        return;
    }
    sup->owed[stream] -= (size_t)length < sup->owed[stream] ? (size_t)length : sup->owed[stream];
    if (length > PAGE_BYTES / 8) /* escapes and frames make more of it */
        sup->buffers_used = true;
    if (log_wanted(&sup->log)) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        log_append(&sup->log, stream, sup->chunk, (size_t)length, &now);
        log_flush(&sup->log);
    }
    distribute(sup, (unsigned)stream, (size_t)length);
}

/* Nothing more comes from this stream. */
void end_output(struct supervision *sup, int stream) {
    if (sup->output[stream].file < 0)
        return;
    forget(sup, &sup->output[stream]);
    if (log_wanted(&sup->log)) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        log_end_stream(&sup->log, stream, &now);
        log_flush(&sup->log);
    }
}

/* The container's stdin is closed: no client's input is wanted any more. */
void close_input(struct supervision *sup) {
    forget(sup, &sup->input);
    sup->takes_stdin = false;
    sup->input_start = sup->input_end = 0;
    for (unsigned index = 0; index < MAX_CLIENTS; index++)
        if (sup->clients[index].streams & STDIN_BIT)
            drop_streams(sup, index, STDIN_BIT);
}

/* Write what clients have sent; when all of it is written, listen to them again. */
void serve_input(struct supervision *sup) {
    while (sup->input_start < sup->input_end) {
        ssize_t written = write(sup->input.file, sup->input_bytes + sup->input_start,
                                sup->input_end - sup->input_start);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno == EAGAIN) {
            watch(sup, &sup->input, SOURCE_INPUT, 0, EPOLLOUT);
            watch_clients(sup);
            return;
        }
        if (written < 0) { /* EPIPE: the container closed its end */
            close_input(sup);
            return;
        }
        sup->input_start += (size_t)written;
    }
    sup->input_start = sup->input_end = 0;
    watch(sup, &sup->input, SOURCE_INPUT, 0, UNWATCHED);
    if (sup->stdin_ends)
        close_input(sup);
    else
        watch_clients(sup);
}

/* No more stdin. A terminal has no end of input of its own: there its user types ^D. */
void end_stdin(struct supervision *sup) {
    if (sup->terminal)
        return;
    sup->stdin_ends = true;
    if (sup->input.file >= 0 && sup->input_start == sup->input_end)
        close_input(sup);
}

static void pull(struct supervision *sup, unsigned index, bool gone) {
    struct client *client = &sup->clients[index];
    ssize_t length =
        recv(client->socket.file, sup->input_bytes, sizeof sup->input_bytes, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (length > 0) {
        if (length > PAGE_BYTES)
            sup->buffers_used = true;
        sup->input_end = (size_t)length;
        serve_input(sup);
        return;
    }
    /* A half-close ends stdin. One that went away altogether only detached, unless input was all
     * that it was there for. */
    bool ends = client->input_only || (length == 0 && !gone);
    drop_streams(sup, index, STDIN_BIT);
    if (ends)
        end_stdin(sup);
}

void serve_client(struct supervision *sup, unsigned index, uint32_t events) {
    struct client *client = &sup->clients[index];
    bool gone = events & (EPOLLHUP | EPOLLERR);
    if (client->pending && (gone || events & EPOLLOUT))
        push(sup, index);
    if (client->streams & STDIN_BIT && sup->input_start == sup->input_end &&
        (gone || events & EPOLLIN))
        pull(sup, index, gone);
    if (!gone || client->socket.file < 0)
        return;
    drop_streams(sup, index, OUTPUT_BITS);
    /* What it sent before it went is still read, but a hang-up that waits its turn would spin. */
    if (client->socket.file >= 0 && sup->input_start < sup->input_end)
        watch(sup, &client->socket, SOURCE_CLIENT, index, UNWATCHED);
}

/* Let the kernel hold all that a slow client has not read yet, so that it outlives the monitor. */
void widen_clients(struct supervision *sup) {
    int size = WIDE_BYTES;
    for (unsigned index = 0; index < MAX_CLIENTS; index++) {
        struct client *client = &sup->clients[index];
        if (client->socket.file < 0)
            continue;
        if (setsockopt(client->socket.file, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
            (void)setsockopt(client->socket.file, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        if (client->pending)
            push(sup, index);
    }
}

void drop_stalled_clients(struct supervision *sup) {
    for (unsigned index = 0; index < MAX_CLIENTS; index++)
        if (sup->clients[index].pending)
            close_client(sup, index);
}

/* The end: each client reads what is left, then end of file. */
void close_clients(struct supervision *sup) {
    for (unsigned index = 0; index < MAX_CLIENTS; index++) {
        struct client *client = &sup->clients[index];
        if (client->socket.file < 0)
            continue;
        /* Input that nobody read would turn the client's end of file into ECONNRESET. */
        shutdown(client->socket.file, SHUT_RDWR);
        for (int i = 0; i < DISCARDS; i++)
            if (recv(client->socket.file, sup->input_bytes, sizeof sup->input_bytes,
                     MSG_DONTWAIT) <= 0)
                break;
        close_client(sup, index);
    }
}
