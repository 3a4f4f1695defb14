/* print_run_directory UID ARGUMENT…: what the front takes for the run directory. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "place.h"

int main(int argc, char **argv) {
    char directory[PATH_MAX];
    if (argc < 2 || run_directory(directory, sizeof directory, argv + 2, (uid_t)atoi(argv[1])) < 0)
        return 1;
    puts(directory);
    return 0;
}
