// SPDX-License-Identifier: GPL-2.0-only
/*
 * PID 1 of the guest: mounts the host's root with a tmpfs over it, then serves
 * commands.
 *
 *   /          overlay: writable, forgotten at power-off
 *     upper      tmpfs
 *     lower      9p, the host's /, read-only
 *   /proc /sys /dev /run /dev/shm   the guest's own
 *
 * A failure is told on the console and ends PID 1; the kernel panics, and the
 * harness shows the console.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define ROOT_OPTIONS	"trans=virtio,version=9p2000.L,msize=512000,cache=loose"
#define PORTS		"/sys/class/virtio-ports"

static void fail(const char *what)
{
	fprintf(stderr, "init: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void must_mount(const char *source, const char *target, const char *type,
		       unsigned long flags, const char *options)
{
	if (mount(source, target, type, flags, options))
		fail(target);
}

static void directory(const char *path, mode_t mode)
{
	if (mkdir(path, mode) && errno != EEXIST)
		fail(path);
}

static void mount_root(void)
{
	must_mount("falcon-root", "/lower", "9p", MS_RDONLY, ROOT_OPTIONS);
	must_mount("upper", "/upper", "tmpfs", 0, "mode=755");
	directory("/upper/data", 0755);
	directory("/upper/work", 0755);
	must_mount("root", "/root", "overlay", 0,
		   "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work");
	/* What switch_root(8) does. */
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		fail("/root");
}

static void mount_own(void)
{
	must_mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=755");
	must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	must_mount("sys", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	must_mount("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
	directory("/dev/pts", 0755);
	directory("/dev/shm", 0755);
	directory("/run/lock", 01777);
	must_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		   "gid=5,mode=620,ptmxmode=666");
	must_mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	/* A kernel without one of these lacks a convenience, no more. */
	mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
	mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL);
}

static void raise_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (any < 0 || ioctl(any, SIOCSIFFLAGS, &request))
		fail("lo");
	close(any);
}

static void set_environment(void)
{
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("LANG", "C.UTF-8", 1);
	setenv("TERM", "linux", 1);
	umask(022);
	if (sethostname("falcon", strlen("falcon")))
		fail("hostname");
}

/* Heartbeats must get out of a guest whose CPUs are all busy. Commands are ordinary. */
static void take_precedence(void)
{
	struct sched_param first = { .sched_priority = 1 };

	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first))
		fail("priority");
}

/* True when virtio port @name is the one that the host made for us. */
static int is_our_port(const char *name)
{
	char path[300], label[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), PORTS "/%s/name", name);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (!fgets(label, sizeof(label), file))
		label[0] = '\0';
	fclose(file);
	label[strcspn(label, "\n")] = '\0';
	return !strcmp(label, AGENT_PORT_NAME);
}

static int open_port(void)
{
	DIR *ports = opendir(PORTS);
	struct dirent *entry;
	char path[300];
	int fd;

	if (!ports)
		fail(PORTS);
	while ((entry = readdir(ports)) && !is_our_port(entry->d_name))
		;
	if (!entry) {
		errno = ENODEV;
		fail(AGENT_PORT_NAME);
	}
	snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
	closedir(ports);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail(path);
	return fd;
}

int main(void)
{
	int port = STDIN_FILENO;	/* where the unit tests put a socket */

	if (getpid() == 1) {
		mount_root();
		mount_own();
		raise_loopback();
		set_environment();
		take_precedence();
		port = open_port();
	}
	agent_serve(port);
	return 0;
}
