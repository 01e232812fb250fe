/* Lets the program that valgrind's callgrind runs say from where to where its instructions are counted. */

#include <valgrind/callgrind.h>

void begin_count(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

/* Write what was counted since to the next file of the run, with `name` in its line "desc: Trigger". */
void end_count(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
