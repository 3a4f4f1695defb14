/* onggi: the engine's command line. */
#include <unistd.h>

#include "face.h"
#include "place.h"

enum { EXIT_ENGINE = 125 };

static int engine_directory(char *out, size_t size, char *const *arguments) {
    return run_directory(out, size, arguments, geteuid());
}

int main(int argc, char **argv, char **environment) {
    static const struct face FACE = {
        .name = "onggi",
        .plain = "onggi-python",
        .lost = EXIT_ENGINE,
        .directory = engine_directory,
    };
    return face_main(&FACE, argc, argv, environment);
}
