/* SPDX-License-Identifier: GPL-2.0-only */
/* What Falcon decides at a stage, as functions whose instructions can be counted. */
#include <stdint.h>
#include "falcon_pick.h"

uint32_t stage_hash(uint32_t flow, uint32_t ifindex, uint32_t net)
{
	return falcon_stage_hash(flow, ifindex, net);
}

static inline uint32_t choose(const struct falcon_slot *slots, uint32_t nr, uint32_t flow,
			      uint32_t hash, int hop, uint32_t from, uint32_t threshold,
			      int two_choice, int *second)
{
	uint32_t first = falcon_first_slot(flow, hash, hop, nr);

	return falcon_pick(slots, nr, first, hash, from, threshold, two_choice, second);
}

/* No CPU is busy, or nobody asks */
uint32_t first_choice(const struct falcon_slot *slots, uint32_t nr, uint32_t flow, uint32_t hash,
		      int hop, uint32_t from)
{
	int second;

	return choose(slots, nr, flow, hash, hop, from, 100, 0, &second);
}

uint32_t any_choice(const struct falcon_slot *slots, uint32_t nr, uint32_t flow, uint32_t hash,
		    int hop, uint32_t from, uint32_t threshold, int two_choice, int *second)
{
	return choose(slots, nr, flow, hash, hop, from, threshold, two_choice, second);
}
