// What a tenant may run as a probe's program to get more than it is given: tenant HOW.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void spin(void) {
    for (;;)
        __asm__ volatile("");
}

// Sets what it finds again and again, so that it stays.
static void keep(void) {
    struct sched_param one = {.sched_priority = 1};
    for (;;) {
        if (sched_setscheduler(0, SCHED_RR, &one) != 0)
            sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &one);
    }
}

// Two threads, each of which sets the other one: who is looked at may sleep, and is set all the same.
static pid_t one_of_two, other_of_two;

static void keep_the_other(const volatile pid_t *other, int naps) {
    struct sched_param one = {.sched_priority = 1};
    for (int i = 1;; i++) {
        if (*other && sched_setscheduler(*other, SCHED_RR, &one) != 0)
            sched_setscheduler(*other, SCHED_RR | SCHED_RESET_ON_FORK, &one);
        if (i % 64 == 0 && naps-- > 0)
            usleep(500);
    }
}

static int keep_the_first(void *nothing) {
    (void)nothing;
    other_of_two = gettid();
    keep_the_other(&one_of_two, 0);
    return 0;
}

static void keep_each_other(void) {
    static char stack[16384] __attribute__((aligned(16)));
    one_of_two = gettid();
    clone(keep_the_first, stack + sizeof stack,
          CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, 0);
    keep_the_other(&other_of_two, 300);
}

// Children of whoever has started us, which have executed nothing: as the runtime's own look.
static void siblings(void) {
    for (int i = 0; i < 20; i++)
        if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0)
            spin();
    for (;;)
        usleep(1000);
}

// A child that stays when we are killed.
static void leave_a_child(void) {
    if (fork() == 0)
        for (;;)
            pause();
    spin();
}

static void fork_without_end(void) {
    for (;;) {
        fork();
    }
}

// Of a session of its own, when whoever started it has ended.
static void daemonize(void) {
    if (fork() != 0)
        _exit(0);
    setsid();
    if (fork() != 0)
        _exit(0);
    spin();
}

// move DIRECTORY...: into another cgroup.
static void move(char **dirs) {
    for (; *dirs; dirs++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/cgroup.procs", *dirs);
        int fd = open(path, O_WRONLY);
        if (fd < 0 || write(fd, "0", 1) != 1) {
            perror(path);
            _exit(1);
        }
        close(fd);
    }
    spin();
}

// A child that stops at each signal and is only let go by us.
static void trace(void (*what)(void)) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        what();
    }
    int status;
    while (waitpid(child, &status, __WALL) == child && WIFSTOPPED(status)) {
        int signal = WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status);
        ptrace(PTRACE_CONT, child, 0, signal);
    }
    spin();
}

// Every thread it makes spins, and the first one is gone.
static int spinning(void *nothing) {
    (void)nothing;
    spin();
    return 0;
}

static void threads(void) {
    static char stacks[16][16384] __attribute__((aligned(16)));
    for (int i = 0; i < 16; i++)
        clone(spinning, stacks[i] + sizeof stacks[i],
              CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, 0);
    spin();
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    if (strcmp(how, "spin") == 0)
        spin();
    else if (strcmp(how, "runc") == 0) {
        prctl(PR_SET_NAME, "runc:[2:INIT]");
        spin();
    } else if (strcmp(how, "keep") == 0)
        keep();
    else if (strcmp(how, "keep-each-other") == 0)
        keep_each_other();
    else if (strcmp(how, "leave-a-child") == 0)
        leave_a_child();
    else if (strcmp(how, "siblings") == 0)
        siblings();
    else if (strcmp(how, "fork") == 0)
        fork_without_end();
    else if (strcmp(how, "daemonize") == 0)
        daemonize();
    else if (strcmp(how, "move") == 0)
        move(argv + 2);
    else if (strcmp(how, "trace") == 0)
        trace(spin);
    else if (strcmp(how, "trace-and-keep") == 0)
        trace(keep);
    else if (strcmp(how, "threads") == 0)
        threads();
    return 2;
}
