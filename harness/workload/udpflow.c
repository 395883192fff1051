// SPDX-License-Identifier: GPL-2.0-only
/*
 * udpflow: one numbered UDP flow, or the receiver of several.
 *
 *	udpflow send ADDRESS PORT [-s BYTES] [-r PACKETS_PER_SECOND] [-n PACKETS]
 *				  [-t SECONDS] [-w SECONDS] [-f FLOW] [-p SOURCE_PORT] [-c CPU]
 *	udpflow recv ADDRESS PORT
 *
 * Every packet carries its flow, its number in the flow, a check word over
 * both, and a filling derived from the check word. The receiver thus tells
 * lost, duplicated, late and damaged packets apart without keeping any.
 *
 * What comes out are JSON objects, one a line. "send" prints one at its end.
 * "recv" prints one as soon as it is bound, one with the counters so far at each
 * SIGUSR1, and one at its end. SIGINT and SIGTERM end both; so does the death of
 * the parent. Nothing is printed on the packet path.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BATCH		64	/* packets per system call */
#define MAX_SIZE	65507	/* largest UDP payload over IPv4 */
#define MAX_FLOWS	256
#define WINDOW_BITS	65536	/* how far back a late packet is told from a duplicate */
#define MAX_LATE	8	/* late packets that are named, not only counted */
#define NSEC_PER_SEC	1000000000LL
#define MAX_LAG_NS	(NSEC_PER_SEC / 10)

struct header {			/* network byte order */
	uint32_t check;
	uint32_t flow;
	uint64_t number;
};

static volatile sig_atomic_t stop, report;

static void on_stop(int sig)
{
	(void)sig;
	stop = 1;
}

static void on_report(int sig)
{
	(void)sig;
	report = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "udpflow: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_stop };	/* no SA_RESTART */

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	action.sa_handler = on_report;
	sigaction(SIGUSR1, &action, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void sleep_until(int64_t when_ns)
{
	struct timespec ts = {
		.tv_sec = when_ns / NSEC_PER_SEC,
		.tv_nsec = when_ns % NSEC_PER_SEC,
	};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

/* ---- what a packet contains --------------------------------------------- */

static uint32_t check_word(uint32_t flow, uint64_t number)
{
	uint64_t x = (number ^ ((uint64_t)flow << 40)) + 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x >> 32;
}

/* Eight bytes of filling at a time: what a receiver executes for a large packet
 * shall be the kernel's copying of it, and not this check.
 */
static uint64_t next_filling(uint64_t x)
{
	return x * 6364136223846793005ULL + 1442695040888963407ULL;
}

static void fill_packet(unsigned char *packet, size_t size, uint32_t flow, uint64_t number)
{
	uint32_t x = check_word(flow, number);
	struct header header = {
		.check = htonl(x),
		.flow = htonl(flow),
		.number = htobe64(number),
	};
	uint64_t filling = x, bytes;
	size_t at;

	memcpy(packet, &header, sizeof(header));
	for (at = sizeof(header); at + sizeof(bytes) <= size; at += sizeof(bytes)) {
		filling = next_filling(filling);
		bytes = htole64(filling);
		memcpy(packet + at, &bytes, sizeof(bytes));
	}
	bytes = htole64(next_filling(filling));
	memcpy(packet + at, &bytes, size - at);
}

static bool packet_is_intact(const unsigned char *packet, size_t size, uint32_t *flow,
			     uint64_t *number)
{
	struct header header;
	uint64_t filling, bytes;
	uint32_t x;
	size_t at;

	if (size < sizeof(header))
		return false;
	memcpy(&header, packet, sizeof(header));
	*flow = ntohl(header.flow);
	*number = be64toh(header.number);
	x = check_word(*flow, *number);
	if (ntohl(header.check) != x)
		return false;
	filling = x;
	for (at = sizeof(header); at + sizeof(bytes) <= size; at += sizeof(bytes)) {
		filling = next_filling(filling);
		bytes = htole64(filling);
		if (memcmp(packet + at, &bytes, sizeof(bytes)))
			return false;
	}
	bytes = htole64(next_filling(filling));
	return !memcmp(packet + at, &bytes, size - at);
}

/* ---- sockets -------------------------------------------------------------- */

/* An address of either family, as sockets take it. */
struct endpoint {
	struct sockaddr_storage address;
	socklen_t size;
	int family;
};

static struct endpoint parse_endpoint(const char *address, const char *port)
{
	struct endpoint at = { 0 };
	struct sockaddr_in *in4 = (struct sockaddr_in *)&at.address;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&at.address;

	if (inet_pton(AF_INET, address, &in4->sin_addr) == 1) {
		at.family = AF_INET;
		at.size = sizeof(*in4);
		in4->sin_port = htons(atoi(port));
	} else if (inet_pton(AF_INET6, address, &in6->sin6_addr) == 1) {
		at.family = AF_INET6;
		at.size = sizeof(*in6);
		in6->sin6_port = htons(atoi(port));
	} else {
		fprintf(stderr, "udpflow: %s is no IP address\n", address);
		exit(2);
	}
	at.address.ss_family = at.family;
	return at;
}

static int open_socket(const struct endpoint *at)
{
	int fd = socket(at->family, SOCK_DGRAM, 0);

	if (fd < 0)
		die("socket");
	return fd;
}

static void bind_socket(int fd, const struct endpoint *at)
{
	if (bind(fd, (const struct sockaddr *)&at->address, at->size))
		die("bind");
}

/* ---- sending ---------------------------------------------------------------- */

struct sender {
	const char *address, *port;
	size_t size;
	double rate;		/* packets a second; 0: as fast as it goes */
	uint64_t count;		/* 0: no limit */
	double seconds;		/* 0: no limit */
	double wait;		/* seconds, before it begins */
	uint32_t flow;
	const char *source_port;	/* NULL: the kernel's choice */
	int cpu;		/* -1: any */
};

/*
 * The socket is not connected: a connected one stamps its packets with a random
 * hash of its own, and it is the hash of addresses and ports that a receiving
 * host goes by, time after time the same.
 */
static int open_sender(const struct sender *sender, const struct endpoint *to)
{
	const char *any = to->family == AF_INET ? "0.0.0.0" : "::";
	int size = 4 << 20;
	int fd = open_socket(to);

	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (sender->source_port) {
		struct endpoint from = parse_endpoint(any, sender->source_port);
		int yes = 1;

		/* Senders that share a port are one flow to everyone on the way. */
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
		bind_socket(fd, &from);
	}
	return fd;
}

/* What a network that is being built up or torn down says is no reason to stop. */
static bool worth_retrying(int err)
{
	return err == ENOBUFS || err == EAGAIN || err == EINTR || err == EHOSTUNREACH ||
	       err == ENETUNREACH || err == ENETDOWN || err == EPERM;
}

static unsigned int send_batch(int fd, struct mmsghdr *messages, unsigned int wanted)
{
	unsigned int sent = 0;

	while (sent < wanted && !stop) {
		int n = sendmmsg(fd, messages + sent, wanted - sent, 0);

		if (n > 0)
			sent += n;
		else if (!worth_retrying(errno))
			die("send");
		else if (errno != EINTR)
			sleep_until(now_ns() + NSEC_PER_SEC / 1000);
	}
	return sent;
}

/* When packet number @sent is due. A sender that was held up does not burst to catch up. */
static void pace(const struct sender *sender, uint64_t sent, int64_t *start_ns)
{
	int64_t due = *start_ns + (int64_t)((double)sent / sender->rate * NSEC_PER_SEC);
	int64_t lag = now_ns() - due;

	if (lag > MAX_LAG_NS)
		*start_ns += lag;
	else if (lag < 0)
		sleep_until(due);
}

static unsigned int batch_size(const struct sender *sender)
{
	double a_millisecond = sender->rate / 1000;

	if (sender->rate == 0 || a_millisecond > BATCH)
		return BATCH;
	return a_millisecond < 1 ? 1 : (unsigned int)a_millisecond;
}

static void run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
}

static int run_sender(const struct sender *sender)
{
	unsigned char *packets = malloc(BATCH * sender->size);
	struct mmsghdr messages[BATCH] = { 0 };
	struct iovec parts[BATCH];
	unsigned int batch = batch_size(sender);
	struct endpoint to = parse_endpoint(sender->address, sender->port);
	int fd = open_sender(sender, &to);
	int64_t begin, start, end;
	uint64_t sent = 0;
	unsigned int i;

	if (sender->wait)
		sleep_until(now_ns() + (int64_t)(sender->wait * NSEC_PER_SEC));
	begin = start = now_ns();
	end = sender->seconds ? begin + (int64_t)(sender->seconds * NSEC_PER_SEC) : INT64_MAX;
	if (!packets)
		die("malloc");
	if (sender->cpu >= 0)
		run_on(sender->cpu);
	for (i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ packets + i * sender->size, sender->size };
		messages[i].msg_hdr.msg_name = &to.address;
		messages[i].msg_hdr.msg_namelen = to.size;
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	while (!stop && (!sender->count || sent < sender->count) && now_ns() < end) {
		unsigned int n = batch;

		if (sender->count && sender->count - sent < n)
			n = sender->count - sent;
		if (sender->rate)
			pace(sender, sent, &start);
		for (i = 0; i < n; i++)
			fill_packet(parts[i].iov_base, sender->size, sender->flow, sent + i);
		sent += send_batch(fd, messages, n);
	}
	printf("{\"sent\": %" PRIu64 ", \"seconds\": %.6f}\n", sent,
	       (double)(now_ns() - begin) / NSEC_PER_SEC);
	free(packets);
	close(fd);
	return 0;
}

/* ---- receiving ---------------------------------------------------------------- */

struct flow {
	uint64_t first, last, unique;
	uint64_t seen[WINDOW_BITS / 64];	/* bit number % WINDOW_BITS: that number came */
};

struct late {
	uint32_t flow;
	uint64_t number, after;	/* that number came, after this one */
	int64_t at_ns;
};

struct receiver {
	struct flow *flows[MAX_FLOWS];
	struct late late[MAX_LATE];	/* the first ones */
	uint64_t received, bytes, out_of_order, duplicates, corrupted;
	int64_t first_ns, last_ns;
};

static bool test_and_set_seen(struct flow *flow, uint64_t number)
{
	uint64_t *word = &flow->seen[number % WINDOW_BITS / 64];
	uint64_t bit = 1ULL << (number % 64);
	bool was = *word & bit;

	*word |= bit;
	return was;
}

/* The window moves on to @number: what it now stands for has not been seen. */
static void advance(struct flow *flow, uint64_t number)
{
	uint64_t at;

	if (number - flow->last >= WINDOW_BITS)
		memset(flow->seen, 0, sizeof(flow->seen));
	else
		for (at = flow->last + 1; at <= number; at++)
			flow->seen[at % WINDOW_BITS / 64] &= ~(1ULL << (at % 64));
	flow->last = number;
}

static struct flow *start_flow(struct receiver *receiver, uint32_t id, uint64_t number)
{
	struct flow *flow = calloc(1, sizeof(*flow));

	if (!flow)
		die("calloc");
	flow->first = number;
	flow->last = number;
	receiver->flows[id] = flow;
	return flow;
}

static void account_number(struct receiver *receiver, uint32_t id, uint64_t number)
{
	struct flow *flow = receiver->flows[id];
	bool late;

	if (!flow)
		flow = start_flow(receiver, id, number);
	late = number < flow->last;
	if (number > flow->last)
		advance(flow, number);
	if (number < flow->first)
		flow->first = number;
	/* Older than the window: late for certain, and taken for no duplicate. */
	if (flow->last - number < WINDOW_BITS && test_and_set_seen(flow, number)) {
		receiver->duplicates++;
		return;
	}
	flow->unique++;
	if (!late)
		return;
	if (receiver->out_of_order < MAX_LATE)
		receiver->late[receiver->out_of_order] = (struct late){
			.flow = id, .number = number, .after = flow->last, .at_ns = now_ns(),
		};
	receiver->out_of_order++;
}

static void account_packet(struct receiver *receiver, const unsigned char *packet, size_t size,
			   bool truncated)
{
	uint64_t number;
	uint32_t flow;

	receiver->received++;
	receiver->bytes += size;
	if (truncated || !packet_is_intact(packet, size, &flow, &number) || flow >= MAX_FLOWS)
		receiver->corrupted++;
	else
		account_number(receiver, flow, number);
}

static void print_late(const struct receiver *receiver)
{
	const struct late *late = receiver->late;
	uint64_t i;

	printf(", \"late\": [");
	for (i = 0; i < receiver->out_of_order && i < MAX_LATE; i++, late++)
		printf("%s[%" PRIu32 ", %" PRIu64 ", %" PRIu64 ", %.6f]", i ? ", " : "", late->flow,
		       late->number, late->after,
		       (double)(late->at_ns - receiver->first_ns) / NSEC_PER_SEC);
	printf("]}\n");
}

static void print_receiver(const struct receiver *receiver)
{
	uint64_t lost = 0;
	unsigned int flows = 0;
	int id;

	for (id = 0; id < MAX_FLOWS; id++) {
		const struct flow *flow = receiver->flows[id];

		if (!flow)
			continue;
		flows++;
		lost += flow->last - flow->first + 1 - flow->unique;
	}
	printf("{\"received\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"out_of_order\": %" PRIu64
	       ", \"duplicates\": %" PRIu64 ", \"corrupted\": %" PRIu64 ", \"lost\": %" PRIu64
	       ", \"flows\": %u, \"seconds\": %.6f, \"at_seconds\": %.6f",
	       receiver->received, receiver->bytes, receiver->out_of_order, receiver->duplicates,
	       receiver->corrupted, lost, flows,
	       (double)(receiver->last_ns - receiver->first_ns) / NSEC_PER_SEC,
	       (double)now_ns() / NSEC_PER_SEC);
	print_late(receiver);
	fflush(stdout);
}

static int bind_receiver(const char *address, const char *port)
{
	struct timeval wake_up = { .tv_usec = 100000 };	/* a signal may come just before the wait */
	struct endpoint at = parse_endpoint(address, port);
	int size = 8 << 20;
	int fd = open_socket(&at);

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wake_up, sizeof(wake_up));
	bind_socket(fd, &at);
	return fd;
}

static void receive_batch(int fd, struct receiver *receiver, struct mmsghdr *messages)
{
	int n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
	int i;

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			die("receive");
		return;
	}
	receiver->last_ns = now_ns();
	if (!receiver->first_ns)
		receiver->first_ns = receiver->last_ns;
	for (i = 0; i < n; i++)
		account_packet(receiver, messages[i].msg_hdr.msg_iov->iov_base, messages[i].msg_len,
			       messages[i].msg_hdr.msg_flags & MSG_TRUNC);
}

static int run_receiver(const char *address, const char *port)
{
	static unsigned char packets[BATCH][MAX_SIZE];
	static struct receiver receiver;
	struct mmsghdr messages[BATCH] = { 0 };
	struct iovec parts[BATCH];
	int fd = bind_receiver(address, port);
	int i;

	for (i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ packets[i], MAX_SIZE };
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	print_receiver(&receiver);
	while (!stop) {
		receive_batch(fd, &receiver, messages);
		if (report) {
			report = 0;
			print_receiver(&receiver);
		}
	}
	print_receiver(&receiver);
	close(fd);
	return 0;
}

/* ---- command line ------------------------------------------------------------- */

static int usage(void)
{
	fprintf(stderr, "usage: udpflow send ADDRESS PORT [-s BYTES] [-r PACKETS_PER_SECOND]\n"
			"                    [-n PACKETS] [-t SECONDS] [-w SECONDS] [-f FLOW]\n"
			"                    [-p SOURCE_PORT] [-c CPU]\n"
			"       udpflow recv ADDRESS PORT\n");
	return 2;
}

static int parse_sender(struct sender *sender, int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "s:r:n:t:w:f:p:c:")) != -1) {
		switch (option) {
		case 's':
			sender->size = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			sender->rate = strtod(optarg, NULL);
			break;
		case 'n':
			sender->count = strtoull(optarg, NULL, 10);
			break;
		case 't':
			sender->seconds = strtod(optarg, NULL);
			break;
		case 'w':
			sender->wait = strtod(optarg, NULL);
			break;
		case 'f':
			sender->flow = strtoul(optarg, NULL, 10);
			break;
		case 'p':
			sender->source_port = optarg;
			break;
		case 'c':
			sender->cpu = atoi(optarg);
			break;
		default:
			return -1;
		}
	}
	if (optind != argc || sender->flow >= MAX_FLOWS || sender->rate < 0 || sender->wait < 0)
		return -1;
	return sender->size < sizeof(struct header) || sender->size > MAX_SIZE ? -1 : 0;
}

int main(int argc, char **argv)
{
	struct sender sender = { .size = 64, .cpu = -1 };

	if (argc < 4)
		return usage();
	catch_signals();
	if (!strcmp(argv[1], "recv") && argc == 4)
		return run_receiver(argv[2], argv[3]);
	sender.address = argv[2];
	sender.port = argv[3];
	if (strcmp(argv[1], "send") || parse_sender(&sender, argc - 3, argv + 3))
		return usage();
	return run_sender(&sender);
}
