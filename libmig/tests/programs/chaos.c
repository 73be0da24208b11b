// The memory of the workload of that name, which is never at rest.
#include "../../../tests/workloads/chaos.c"
