// Threads that spin as soon as all of them are there: spinners NUMBER.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_barrier_t all;

static void *spin(void *nothing) {
    (void)nothing;
    pthread_barrier_wait(&all);
    for (;;)
        __asm__ volatile("");
}

int main(int argc, char **argv) {
    int number = argc > 1 ? atoi(argv[1]) : 0;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 32768);
    pthread_barrier_init(&all, NULL, number);
    // This thread is one of them.
    for (int i = 1; i < number; i++) {
        pthread_t thread;
        int error = pthread_create(&thread, &small, spin, NULL);
        if (error != 0) {
            fprintf(stderr, "thread %d: %s\n", i, strerror(error));
            return 1;
        }
    }
    spin(NULL);
}
