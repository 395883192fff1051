// SPDX-License-Identifier: GPL-2.0-only
/*
 * icount: a QEMU plugin that counts the instructions each emulated CPU executes
 * in each function of the guest's kernel.
 *
 *	qemu-system-x86_64 ... -plugin icount.so,functions=FILE,counters=FILE
 *
 * "functions" has a line for each function, its first address in hexadecimal,
 * ascending; a function reaches to the next line's. "counters" exists and is as
 * long as CPUs * (1 + functions) words of 64 bits: a row a CPU, which begins with
 * what is below the first function (user space). It is mapped and only ever
 * added to, so whoever reads it at two moments has what was executed between.
 *
 * A block of translated instructions counts as executed whole, for the function
 * it begins in. A block that an exception ends early thus counts too much: that
 * is one in some hundreds, the same in every measurement.
 *
 * The few declarations of QEMU's plugin interface that are needed stand here,
 * since distributions ship QEMU without its header. They have not changed since
 * version 1 of the interface.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;		/* its layout does change, and is not needed */

enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

typedef void (*translated_t)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*executed_t)(unsigned int vcpu, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translated_t callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, executed_t callback,
					  enum qemu_plugin_cb_flags flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

EXPORT int qemu_plugin_version = ICOUNT_API;

static uint64_t *starts;	/* first addresses of functions, ascending */
static size_t functions;
static uint64_t *counters;
static size_t rows;

/* What a block does, packed into the pointer QEMU keeps for it. */
#define COLUMN_BITS	40

static uintptr_t pack(size_t instructions, size_t column)
{
	return (uintptr_t)instructions << COLUMN_BITS | column;
}

/* How many functions begin at or below @address: its column in the counters. */
static size_t column_of(uint64_t address)
{
	size_t low = 0, high = functions;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (starts[middle] <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * Each emulated CPU runs in a thread of its own and writes to its own row, so
 * nothing needs to be atomic; the reader may see one block less.
 */
static void on_executed(unsigned int vcpu, void *data)
{
	uintptr_t packed = (uintptr_t)data;
	uint64_t *counter;

	if (vcpu >= rows)
		return;
	counter = counters + vcpu * (1 + functions) + (packed & ((1ULL << COLUMN_BITS) - 1));
	*(volatile uint64_t *)counter += packed >> COLUMN_BITS;
}

static void on_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t column = column_of(qemu_plugin_tb_vaddr(tb));

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, on_executed, QEMU_PLUGIN_CB_NO_REGS,
					     (void *)pack(qemu_plugin_tb_n_insns(tb), column));
}

static bool read_functions(const char *path)
{
	FILE *file = fopen(path, "r");
	size_t room = 0;
	uint64_t start;

	if (!file)
		return false;
	while (fscanf(file, "%" SCNx64, &start) == 1) {
		if (functions == room) {
			room = room ? 2 * room : 4096;
			starts = realloc(starts, room * sizeof(*starts));
			if (!starts)
				return false;
		}
		starts[functions++] = start;
	}
	fclose(file);
	return true;
}

static bool map_counters(const char *path)
{
	int fd = open(path, O_RDWR);
	struct stat stat;

	if (fd < 0 || fstat(fd, &stat))
		return false;
	rows = stat.st_size / ((1 + functions) * sizeof(*counters));
	counters = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return counters != MAP_FAILED;
}

/* The value of option "@name=..." among the arguments, or NULL. */
static const char *option(const char *name, int argc, char **argv)
{
	size_t length = strlen(name);
	int i;

	for (i = 0; i < argc; i++)
		if (!strncmp(argv[i], name, length) && argv[i][length] == '=')
			return argv[i] + length + 1;
	return NULL;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc,
			       char **argv)
{
	const char *functions_path = option("functions", argc, argv);
	const char *counters_path = option("counters", argc, argv);

	(void)info;
	if (!functions_path || !counters_path) {
		fprintf(stderr, "icount: functions=FILE and counters=FILE are needed\n");
		return -1;
	}
	if (!read_functions(functions_path) || !map_counters(counters_path)) {
		fprintf(stderr, "icount: %s, %s: %s\n", functions_path, counters_path,
			strerror(errno));
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
	return 0;
}
