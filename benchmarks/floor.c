/* The floor of a restart: what the kernel itself takes for an isolated service, with nothing decided or stored.
 *
 * floor BASE PIPE SCRIPT: runs `/bin/sh -c SCRIPT` in mount, pid, ipc, uts and cgroup namespaces of its own, on an
 * overlay over / (BASE/upper, BASE/work, BASE/root), with /proc of its own and PIPE bound in, and runs it again
 * whenever it ends. Prints the pid of each run. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    _exit(111);
}

static void child(const char *base, const char *pipe, const char *script) {
    char options[4096], path[4096];
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) fail("private");
    snprintf(options, sizeof options, "lowerdir=/,upperdir=%s/upper,workdir=%s/work", base, base);
    snprintf(path, sizeof path, "%s/root", base);
    if (mount("overlay", path, "overlay", 0, options)) fail("overlay");
    if (chdir(path)) fail("chdir");
    if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) fail("proc");
    if (mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=64k")) fail("dev");
    close(creat("dev/null", 0666));
    if (mount("/dev/null", "dev/null", NULL, MS_BIND, NULL)) fail("null");
    close(creat("pipe", 0666));
    if (mount(pipe, "pipe", NULL, MS_BIND, NULL)) fail("pipe");
    if (syscall(SYS_pivot_root, ".", ".")) fail("pivot_root");
    if (umount2(".", MNT_DETACH)) fail("umount");
    if (sethostname("floor", 5)) fail("sethostname");
    execl("/bin/sh", "sh", "-c", script, (char *)NULL);
    fail("exec");
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    for (;;) {
        struct clone_args args;
        memset(&args, 0, sizeof args);
        args.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
        args.exit_signal = SIGCHLD;
        long pid = syscall(SYS_clone3, &args, sizeof args);
        if (pid < 0) fail("clone3");
        if (pid == 0) child(argv[1], argv[2], argv[3]);
        printf("%ld\n", pid);
        fflush(stdout);
        int status;
        if (waitpid((pid_t)pid, &status, 0) < 0) fail("waitpid");
        if (WIFEXITED(status) && WEXITSTATUS(status) == 111) return 1;
    }
}
