/* The agent: answers a gateway, runs its models, reads its own sensor. Profile `mcu` of the wire specification. */
#ifndef MSRT_AGENT_H
#define MSRT_AGENT_H

void agent_start(void);
void agent_step(void); /* again and again */

#endif
