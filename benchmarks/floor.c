/* What the kernel needs for a restart with the isolation that a service of ours has by default, and nothing else: a
 * parent that waits and clones, a child that makes calls and execs. The floor of restart_latency.
 * Build: cc -O2; usage: floor WORK CGROUPS FILTER PROGRAM ARG...
 *   WORK      has the directories upper, work and root        CGROUPS  directories to enter, separated by commas
 *   FILTER    file with the seccomp program                    /io      of WORK is bound at /io */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(long done, const char *what)
{
    if (done < 0) {
        dprintf(2, "floor: %s: %s\n", what, strerror(errno));
        _exit(111);
    }
}

static char root[512];

static const char *in(const char *path)
{
    static char full[1024];
    snprintf(full, sizeof full, "%s%s", root, path);
    return full;
}

static void put(const char *type, const char *path, unsigned long flags, const char *data)
{
    mkdir(in(path), 0755);
    must(mount(type, in(path), type, flags, data), path);
}

static void copy(const char *from, const char *path, int file)
{
    if (file)
        close(open(in(path), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    else
        mkdir(in(path), 0755);
    must(mount(from, in(path), NULL, MS_BIND, NULL), path);
}

static void isolate(const char *work)
{
    static const char *const nodes[] = {"null", "zero", "full", "random", "urandom", "tty"};
    static const char *const fixed[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    static const char *const masked[] = {"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore",
        "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
        "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"};
    unsigned long strict = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    char text[1600], from[600];
    struct stat is;

    must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
    snprintf(text, sizeof text, "lowerdir=/,upperdir=%s/upper,workdir=%s/work,index=off,metacopy=off", work, work);
    must(mount("overlay", root, "overlay", MS_NODEV, text), "overlay");
    put("proc", "/proc", strict, NULL);
    put("tmpfs", "/dev", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755");
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        snprintf(from, sizeof from, "/dev/%s", nodes[i]);
        copy(from, from, 1);
    }
    must(symlink("/proc/self/fd", in("/dev/fd")), "symlink");
    put("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    put("tmpfs", "/dev/shm", strict, "mode=1777");
    put("mqueue", "/dev/mqueue", strict, NULL);
    put("sysfs", "/sys", strict | MS_RDONLY, NULL);
    put("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
    copy("/etc/hostname", "/etc/hostname", 1);
    copy("/etc/hosts", "/etc/hosts", 1);
    copy("/etc/resolv.conf", "/etc/resolv.conf", 1);
    snprintf(from, sizeof from, "%s/io", work);
    copy(from, "/io", 0);
    must(chdir(root), "chdir");
    must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(mount("none", ".", NULL, MS_REC | MS_SLAVE, NULL), "slave");
    must(umount2(".", MNT_DETACH), "umount");
    must(chdir("/"), "chdir /");
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (mount(fixed[i], fixed[i], NULL, MS_BIND | MS_REC, NULL) == 0)
            must(mount("none", fixed[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | strict, NULL), fixed[i]);
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++)
        if (stat(masked[i], &is) == 0) {
            if (S_ISDIR(is.st_mode))
                must(mount("tmpfs", masked[i], "tmpfs", strict | MS_RDONLY, "nr_blocks=1"), masked[i]);
            else
                must(mount("/dev/null", masked[i], NULL, MS_BIND, NULL), masked[i]);
        }
}

static struct sock_filter code[8192];

static pid_t launch(char **argv)
{
    struct sock_fprog filter = {0, code};
    int fd = open(argv[3], O_RDONLY | O_CLOEXEC);
    filter.len = (unsigned short)(read(fd, code, sizeof code) / (long)sizeof *code);
    close(fd);
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
    if (pid)
        return pid;
    for (char *place = strtok(strdup(argv[2]), ","); place; place = strtok(NULL, ",")) {
        char path[600];
        snprintf(path, sizeof path, "%s/cgroup.procs", place);
        int group = open(path, O_WRONLY | O_CLOEXEC);
        must(write(group, "0", 1), path);
        close(group);
    }
    must(unshare(CLONE_NEWCGROUP), "cgroup namespace");
    setsid();
    must(sethostname("floor", 5), "sethostname");
    isolate(argv[1]);
    for (int cap = 0; cap < 41; cap++)
        if (!(0xa80425fbUL >> cap & 1))
            prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0), "seccomp");
    char *none[] = {NULL};
    execve(argv[4], argv + 4, none);
    must(-1, argv[4]);
    return -1;
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    snprintf(root, sizeof root, "%s/root", argv[1]);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    for (;;) {
        pid_t pid = launch(argv);
        must(pid, "clone");
        int status;
        must(waitpid(pid, &status, 0), "wait");
        if (WIFEXITED(status))
            return WEXITSTATUS(status);
    }
}
