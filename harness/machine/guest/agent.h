/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The command channel between the harness and its guest.
 *
 * Both directions carry frames: a header of payload length (32 bits), command
 * id (32 bits) and kind (8 bits), all big-endian, then the payload. The host
 * chooses the command ids; id 0 is the agent itself. Every byte the guest
 * sends is a sign of life, BEAT frames fill the pauses.
 *
 * harness/machine/channel.py is the other end.
 */
#ifndef FALCON_AGENT_H
#define FALCON_AGENT_H

#define AGENT_PORT_NAME	"falcon.agent"

enum frame_kind {
	/* host to guest */
	START = 1,	/* 16-bit rows, 16-bit columns (0, 0: pipes, no
			 * terminal), 32-bit argc, then strings, each ended
			 * by a NUL: directory, argv[0] .. argv[argc - 1],
			 * NAME=value ...
			 */
	INPUT = 2,	/* bytes for the command's stdin; none: end of input */
	RESIZE = 3,	/* 16-bit rows, 16-bit columns */
	KILL = 4,	/* nothing */

	/* guest to host */
	HELLO = 16,	/* the kernel's release */
	OUTPUT = 17,	/* bytes from stdout, or from the terminal */
	ERRORS = 18,	/* bytes from stderr */
	EXIT = 19,	/* 32-bit status as a shell gives it: 128 + N for signal N */
	BEAT = 20,	/* nothing */
};

/* Serve @port until the host closes it. */
void agent_serve(int port);

#endif
