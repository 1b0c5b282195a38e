// The program that keeps a pod's namespaces: it waits, ends with status 0 on SIGINT or SIGTERM, and leaves no zombies when it
// is process 1 of the pod. System calls only; no libc, no stack of its own. Linux arm64: number in x8, arguments in x0 to x4;
// struct sigaction of the kernel is handler, flags, restorer, mask (8 bytes each).
        .set    SYS_ppoll, 73
        .set    SYS_exit_group, 94
        .set    SYS_rt_sigaction, 134
        .set    SIGINT, 2
        .set    SIGTERM, 15
        .set    SIGCHLD, 17
        .set    SIG_IGN, 1
        .set    SA_NOCLDWAIT, 2

        .text
        .globl  _start
_start:
        mov     x0, SIGINT
        adr     x1, on_end
        bl      set
        mov     x0, SIGTERM
        adr     x1, on_end
        bl      set
        mov     x0, SIGCHLD
        adr     x1, on_child
        bl      set
// There is no pause() on arm64: ppoll() of nothing, without end.
wait:   mov     x0, 0
        mov     x1, 0
        mov     x2, 0
        mov     x3, 0
        mov     x4, 0
        mov     x8, SYS_ppoll
        svc     0
        b       wait

// The action at x1 for the signal in x0. Failing means that the process would not end when told to: rather not start.
set:    mov     x2, 0
        mov     x3, 8
        mov     x8, SYS_rt_sigaction
        svc     0
        cbnz    x0, fail
        ret

end:    mov     x0, 0
        b       exit
fail:   mov     x0, 1
exit:   mov     x8, SYS_exit_group
        svc     0

// Read-only, and in the text section, so that the file needs one segment only. The handler's address is filled in by the linker.
        .balign 8
on_end: .quad   end, 0, 0, 0
on_child:
        .quad   SIG_IGN, SA_NOCLDWAIT, 0, 0
