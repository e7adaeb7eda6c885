"""The default filter, as facts: which system calls a service may use, and what each capability adds.

Equal in effect to Docker's default profile of engines 28 and 29 (moby/profiles, seccomp/default.json,
as of June 2026: AF_ALG and AF_VSOCK sockets refused, lsm_* only with CAP_SYS_ADMIN). Everything that
is not named here fails with EPERM; calls newer than the newest one named fail with ENOSYS (see
`libseccomp`), so that programs fall back.

The groups say what calls are for; a name that an architecture does not have is ignored there.
"""

from __future__ import annotations

from supervisor.kernel.libseccomp import ALLOW, Arg, Op, Profile, Rule, errno_action

_ALWAYS = {
    "names in the file system": """
        access faccessat faccessat2 chdir fchdir getcwd chmod fchmod fchmodat fchmodat2
        chown chown32 fchown fchown32 fchownat lchown lchown32 creat open openat openat2
        link linkat symlink symlinkat readlink readlinkat rename renameat renameat2 unlink unlinkat
        mkdir mkdirat rmdir mknod mknodat umask getdents getdents64
        stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx
        statfs statfs64 fstatfs fstatfs64 statmount listmount
        truncate truncate64 ftruncate ftruncate64 utime utimes utimensat utimensat_time64 futimesat
        name_to_handle_at inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
        """,
    "extended attributes": """
        getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
        listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
        """,
    "reading, writing, descriptors": """
        read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek
        sendfile sendfile64 splice tee vmsplice copy_file_range readahead
        fadvise64 fadvise64_64 fallocate sync syncfs fsync fdatasync sync_file_range
        close close_range dup dup2 dup3 fcntl fcntl64 flock ioctl pipe pipe2
        io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
        """,
    "waiting for descriptors": """
        select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
        eventfd eventfd2 signalfd signalfd4
        timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
        """,
    "sockets (socket itself is under _SOCKET)": """
        socketcall socketpair bind connect listen accept accept4 shutdown getsockname getpeername
        getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
        """,
    "memory": """
        brk mmap mmap2 munmap mremap mprotect madvise mincore msync remap_file_pages mseal
        mlock mlock2 mlockall munlock munlockall memfd_create memfd_secret map_shadow_stack cachestat
        membarrier pkey_alloc pkey_free pkey_mprotect process_mrelease
        """,
    "processes and threads (clone is under _CLONE)": """
        fork vfork execve execveat exit exit_group wait4 waitid waitpid
        getpid getppid gettid getpgid setpgid getpgrp getsid setsid pidfd_open pidfd_send_signal
        set_tid_address get_thread_area set_thread_area get_robust_list set_robust_list rseq prctl
        ptrace process_vm_readv process_vm_writev uretprobe restart_syscall
        futex futex_time64 futex_wait futex_waitv futex_wake futex_requeue
        getrlimit ugetrlimit setrlimit prlimit64 getrusage times
        """,
    "scheduling": """
        getpriority setpriority ioprio_get ioprio_set getcpu
        sched_get_priority_max sched_get_priority_min sched_getaffinity sched_setaffinity
        sched_getattr sched_setattr sched_getparam sched_setparam sched_getscheduler sched_setscheduler
        sched_rr_get_interval sched_rr_get_interval_time64 sched_yield
        """,
    "signals": """
        kill tkill tgkill pause sigaltstack sigprocmask sigreturn
        rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn
        rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
        """,
    "identity and privileges (each checked by the kernel)": """
        getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32
        getresuid getresuid32 getresgid getresgid32 getgroups getgroups32
        setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
        setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32
        setgroups setgroups32 capget capset
        seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
        """,
    "time": """
        time gettimeofday nanosleep alarm getitimer setitimer adjtimex clock_adjtime clock_adjtime64
        clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
        timer_create timer_delete timer_getoverrun
        timer_gettime timer_gettime64 timer_settime timer_settime64
        """,
    "System V and POSIX inter-process communication": """
        ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64
        shmat shmctl shmdt shmget mq_open mq_unlink mq_notify mq_getsetattr
        mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64
        """,
    "about the machine": "uname sysinfo getrandom riscv_hwprobe",
}

_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_ADMIN": """
        mount umount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick
        clone clone3 unshare setns sethostname setdomainname quotactl quotactl_fd
        bpf perf_event_open fanotify_init lookup_dcookie syslog
        lsm_get_self_attr lsm_set_self_attr lsm_list_modules
        """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "init_module finit_module delete_module",
    "CAP_SYS_NICE": "get_mempolicy set_mempolicy set_mempolicy_home_node mbind",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}

RELEVANT_CAPABILITIES = frozenset(_BY_CAPABILITY)
"""Those that change the program; the others need no program of their own."""

_BY_MACHINE = {
    "amd64": "arch_prctl modify_ldt",
    "arm64": "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
}

# The 32-bit calls of a machine run under the same rules; without them its programs would be killed.
_ARCHES = {"amd64": ("x86_64", "x86", "x32"), "arm64": ("aarch64", "arm")}

# Address families that reach past the network namespace, or into the kernel's crypto for its bugs.
_AF_ALG, _AF_VSOCK = 38, 40
_SOCKET = (
    Arg(0, Op.LT, _AF_ALG),
    Arg(0, Op.EQ, _AF_ALG + 1),
    Arg(0, Op.GT, _AF_VSOCK),
)

# PER_LINUX, PER_LINUX32, each with UNAME26; all ones reads the present one. None weakens a later exec.
_UNAME26, _PER_LINUX32, _READ = 0x20000, 0x8, 0xFFFFFFFF
_PERSONALITIES = (0, _PER_LINUX32, _UNAME26, _UNAME26 | _PER_LINUX32, _READ)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME shares its bit with the exit
# signal here and is left to clone3, which a filter cannot look into: it is said to be absent, and C
# libraries then use clone.
_NEW_NAMESPACES = 0x7E020000
_ENOSYS = 38


def default_profile(caps: frozenset[str], machine: str) -> Profile | None:
    """The rules for a bounding set (names as CAP_CHOWN) on "amd64" or "arm64"; None for other machines."""
    if machine not in _ARCHES:
        return None
    rules = [Rule(tuple(names.split()), ALLOW) for names in (*_ALWAYS.values(), _BY_MACHINE[machine])]
    rules += [Rule(("socket",), ALLOW, (arg,)) for arg in _SOCKET]
    rules += [Rule(("personality",), ALLOW, (Arg(0, Op.EQ, value),)) for value in _PERSONALITIES]
    if "CAP_SYS_ADMIN" not in caps:
        rules.append(Rule(("clone",), ALLOW, (Arg(0, Op.MASKED_EQ, _NEW_NAMESPACES, 0),)))
        rules.append(Rule(("clone3",), errno_action(_ENOSYS)))
    rules += [Rule(tuple(_BY_CAPABILITY[cap].split()), ALLOW) for cap in sorted(caps & RELEVANT_CAPABILITIES)]
    return Profile(errno_action(1), _ARCHES[machine], tuple(rules))
