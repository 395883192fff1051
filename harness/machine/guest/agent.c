// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's end of the command channel (see agent.h): one thread, one
 * poll loop, any number of commands at once.
 *
 * C and static, because an interpreter's start costs seconds under emulation,
 * and because it must work whatever the guest's root holds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <utmp.h>

#include "agent.h"

#define HEADER_SIZE	9
#define CHUNK		65536
#define HEARTBEAT_MS	2000
/* Above this many unsent bytes, commands must wait before they may say more. */
#define HIGH_WATER	(1 << 20)

/* Bytes waiting to go somewhere. */
struct queue {
	char *data;
	size_t start, end, size;
};

struct command {
	struct command *next;
	uint32_t id;
	pid_t pid;
	bool tty;
	bool input_ended;	/* the host has sent all of it */
	int in, out, err;	/* -1: closed; on a terminal in == out */
	struct queue input;
};

static struct command *commands;
static struct queue received, unsent;
static int64_t last_sent_ms;

/* -- helpers --------------------------------------------------------------- */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static uint32_t get_number(const char *from, int bytes)
{
	uint32_t value = 0;

	while (bytes--)
		value = value << 8 | (unsigned char)*from++;
	return value;
}

static void put_u32(char *to, uint32_t value)
{
	for (int byte = 3; byte >= 0; byte--, value >>= 8)
		to[byte] = value;
}

static size_t queued(const struct queue *q)
{
	return q->end - q->start;
}

/* Room for @length more bytes at the end of @q. */
static char *queue_room(struct queue *q, size_t length)
{
	if (q->start) {
		memmove(q->data, q->data + q->start, queued(q));
		q->end -= q->start;
		q->start = 0;
	}
	if (q->end + length > q->size) {
		q->size = 2 * (q->end + length);
		q->data = realloc(q->data, q->size);
		if (!q->data)
			die("agent: memory");
	}
	return q->data + q->end;
}

static void enqueue(struct queue *q, const char *data, size_t length)
{
	if (!length)
		return;
	memcpy(queue_room(q, length), data, length);
	q->end += length;
}

/* Write what @fd takes of @q; false when nobody will ever read the rest. */
static bool drain(struct queue *q, int fd)
{
	while (queued(q)) {
		ssize_t written = write(fd, q->data + q->start, queued(q));

		if (written < 0)
			return errno == EAGAIN || errno == EINTR;
		q->start += written;
	}
	return true;
}

static void send_frame(enum frame_kind kind, uint32_t id, const char *payload,
		       size_t length)
{
	char header[HEADER_SIZE];

	put_u32(header, length);
	put_u32(header + 4, id);
	header[8] = kind;
	enqueue(&unsent, header, sizeof(header));
	enqueue(&unsent, payload, length);
	last_sent_ms = now_ms();
}

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* -- starting a command ------------------------------------------------------ */

/* A START frame, taken apart. The strings stay where they are in it. */
struct request {
	struct winsize window;
	const char *directory;
	char **argv;		/* ended by NULL */
	char **env;		/* ended by NULL */
};

static char *next_string(char **at, char *end)
{
	char *string = *at;

	if (string >= end)
		return NULL;
	*at += strlen(string) + 1;
	return string;
}

/* The frame's last string is NUL-terminated by its sender. */
static void parse_request(struct request *request, char *payload, size_t length)
{
	char *at = payload + 8, *end = payload + length;
	uint32_t argc = get_number(payload + 4, 4), used = 0;
	char **strings = calloc(length + 2, sizeof(*strings));

	if (!strings)
		die("agent: memory");
	request->window.ws_row = get_number(payload, 2);
	request->window.ws_col = get_number(payload + 2, 2);
	request->directory = next_string(&at, end);
	request->argv = strings;
	while (used < argc)
		strings[used++] = next_string(&at, end);
	strings[used++] = NULL;
	request->env = strings + used;
	while ((strings[used] = next_string(&at, end)))
		used++;
}

/* In the child, stdin, stdout and stderr being in place. Does not return. */
static void become(const struct request *request)
{
	sigset_t none;
	int status = 126;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	for (char **pair = request->env; *pair; pair++)
		putenv(*pair);
	if (chdir(request->directory)) {
		perror(request->directory);
		_exit(status);
	}
	execvp(request->argv[0], request->argv);
	if (errno == ENOENT)
		status = 127;
	perror(request->argv[0]);
	_exit(status);
}

static void start_on_tty(struct command *command, struct request *request)
{
	int slave;

	if (openpty(&command->in, &slave, NULL, NULL, &request->window))
		die("agent: openpty");
	command->out = command->in;
	command->pid = fork();
	if (command->pid == 0) {
		close(command->in);
		login_tty(slave);
		become(request);
	}
	close(slave);
}

static void start_on_pipes(struct command *command, struct request *request)
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		die("agent: pipe");
	command->pid = fork();
	if (command->pid == 0) {
		/* A session of its own, so that a kill reaches its children. */
		setsid();
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		become(request);
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	command->in = in[1];
	command->out = out[0];
	command->err = err[0];
}

static void keep_to_ourselves(int fd)
{
	if (fd < 0)
		return;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void start(uint32_t id, char *payload, size_t length)
{
	struct command *command = calloc(1, sizeof(*command));
	struct request request;

	if (!command)
		die("agent: memory");
	parse_request(&request, payload, length);
	command->id = id;
	command->in = command->out = command->err = -1;
	command->tty = request.window.ws_row;
	if (command->tty)
		start_on_tty(command, &request);
	else
		start_on_pipes(command, &request);
	free(request.argv);
	if (command->pid < 0)
		die("agent: fork");
	keep_to_ourselves(command->in);
	keep_to_ourselves(command->out);
	keep_to_ourselves(command->err);
	command->next = commands;
	commands = command;
}

/* -- a command's input, output and end ----------------------------------------- */

static void feed(struct command *command)
{
	if (command->in < 0)
		return;
	if (!drain(&command->input, command->in)) {
		command->input.start = command->input.end;	/* no reader */
		command->input_ended = true;
	}
	if (command->input_ended && !queued(&command->input) && !command->tty)
		close_end(&command->in);
}

/* Send one chunk of output on. Returns true when there may be more. */
static bool forward(struct command *command, int *fd, enum frame_kind kind)
{
	static char chunk[CHUNK];
	ssize_t length;

	if (*fd < 0)
		return false;
	length = read(*fd, chunk, sizeof(chunk));
	if (length > 0) {
		send_frame(kind, command->id, chunk, length);
		return true;
	}
	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	/* Its end; a terminal whose last user has gone says EIO. */
	if (command->tty)
		command->in = -1;
	close_end(fd);
	return false;
}

static void finish(struct command *command, int wait_status)
{
	uint32_t status = WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) :
						     WEXITSTATUS(wait_status);
	char payload[4];

	/*
	 * All it wrote is in the pipes. What a process that it left in the
	 * background may write later belongs to no command.
	 */
	while (forward(command, &command->out, OUTPUT))
		;
	while (forward(command, &command->err, ERRORS))
		;
	put_u32(payload, status);
	send_frame(EXIT, command->id, payload, sizeof(payload));
	if (!command->tty)
		close_end(&command->in);
	close_end(&command->out);
	close_end(&command->err);
	free(command->input.data);
	free(command);
}

/* As PID 1 we also bury the orphans, which are no commands of ours. */
static void reap(void)
{
	int wait_status;
	pid_t pid;

	while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) {
		for (struct command **at = &commands; *at; at = &(*at)->next) {
			struct command *command = *at;

			if (command->pid != pid)
				continue;
			*at = command->next;
			finish(command, wait_status);
			break;
		}
	}
}

/* -- the port ------------------------------------------------------------------- */

static struct command *find_command(uint32_t id)
{
	struct command *command = commands;

	while (command && command->id != id)
		command = command->next;
	return command;
}

static void obey(enum frame_kind kind, uint32_t id, char *payload, size_t length)
{
	struct command *command;
	struct winsize window = { 0 };

	if (kind == START) {
		start(id, payload, length);
		return;
	}
	command = find_command(id);
	if (!command)
		return;	/* it ended while the frame was on its way */
	switch (kind) {
	case INPUT:
		enqueue(&command->input, payload, length);
		if (!length)
			command->input_ended = true;
		feed(command);
		break;
	case RESIZE:
		window.ws_row = get_number(payload, 2);
		window.ws_col = get_number(payload + 2, 2);
		ioctl(command->in, TIOCSWINSZ, &window);
		break;
	case KILL:
		/* The group exists once the child has made its session. */
		if (kill(-command->pid, SIGKILL))
			kill(command->pid, SIGKILL);
		break;
	default:
		fprintf(stderr, "agent: frame of unknown kind %d\n", kind);
	}
}

/* Returns false when the host has closed the channel. */
static bool receive(int port)
{
	ssize_t length = read(port, queue_room(&received, CHUNK), CHUNK);

	if (length < 0)
		return errno == EAGAIN || errno == EINTR;
	received.end += length;
	while (queued(&received) >= HEADER_SIZE) {
		char *frame = received.data + received.start;
		size_t payload = get_number(frame, 4);

		if (queued(&received) < HEADER_SIZE + payload)
			break;
		obey(frame[8], get_number(frame + 4, 4), frame + HEADER_SIZE, payload);
		received.start += HEADER_SIZE + payload;
	}
	return length > 0;
}

/* -- the loop ---------------------------------------------------------------------- */

static int child_signals(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		die("agent: signalfd");
	return fd;
}

/* One command's entries in the poll set: stdin, stdout, stderr. */
static void watch(struct pollfd *set, const struct command *command)
{
	short readable = queued(&unsent) < HIGH_WATER ? POLLIN : 0;

	set[0] = (struct pollfd){ queued(&command->input) ? command->in : -1, POLLOUT, 0 };
	set[1] = (struct pollfd){ readable ? command->out : -1, readable, 0 };
	set[2] = (struct pollfd){ readable ? command->err : -1, readable, 0 };
}

static void serve_command(struct command *command, const struct pollfd *set)
{
	if (set[0].revents)
		feed(command);
	if (set[1].revents)
		forward(command, &command->out, OUTPUT);
	if (set[2].revents)
		forward(command, &command->err, ERRORS);
}

/* Wait for something to do and do it; false at the end of the channel. */
static bool serve_once(int port, int signals)
{
	struct signalfd_siginfo ignored;
	size_t count = 2, at = 2;

	for (struct command *command = commands; command; command = command->next)
		count += 3;

	struct pollfd set[count];

	set[0] = (struct pollfd){ port, POLLIN | (queued(&unsent) ? POLLOUT : 0), 0 };
	set[1] = (struct pollfd){ signals, POLLIN, 0 };
	for (struct command *command = commands; command; command = command->next, at += 3)
		watch(set + at, command);
	if (poll(set, count, HEARTBEAT_MS) < 0 && errno != EINTR)
		die("agent: poll");

	/* First the commands: the others change the list of them. */
	at = 2;
	for (struct command *command = commands; command; command = command->next, at += 3)
		serve_command(command, set + at);
	if (set[1].revents) {
		while (read(signals, &ignored, sizeof(ignored)) > 0)
			;
		reap();
	}
	if (set[0].revents & POLLOUT && !drain(&unsent, port))
		return false;
	return !(set[0].revents & POLLIN) || receive(port);
}

void agent_serve(int port)
{
	int signals = child_signals();
	struct utsname kernel;

	uname(&kernel);
	keep_to_ourselves(port);
	send_frame(HELLO, 0, kernel.release, strlen(kernel.release));
	while (serve_once(port, signals)) {
		if (now_ms() - last_sent_ms >= HEARTBEAT_MS)
			send_frame(BEAT, 0, NULL, 0);
	}
}
