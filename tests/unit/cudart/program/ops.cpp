// ops.cpp: upstream's test of backend operations as a part of this program.
#define main backend_ops_main
#include "test-backend-ops.cpp"
