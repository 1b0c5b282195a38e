# The program that keeps a pod's namespaces: it waits, ends with status 0 on SIGINT or SIGTERM, and leaves no zombies when it
# is process 1 of the pod. System calls only; no libc, no stack of its own. Linux x86-64: number in rax, arguments in
# rdi, rsi, rdx, r10; struct sigaction of the kernel is handler, flags, restorer, mask (8 bytes each).
        .set    SYS_rt_sigaction, 13
        .set    SYS_pause, 34
        .set    SYS_exit_group, 231
        .set    SIGINT, 2
        .set    SIGTERM, 15
        .set    SIGCHLD, 17
        .set    SIG_IGN, 1
        .set    SA_NOCLDWAIT, 2
        .set    SA_RESTORER, 0x04000000

        .text
        .globl  _start
_start:
        lea     on_end(%rip), %rsi
        mov     $SIGINT, %edi
        call    set
        lea     on_end(%rip), %rsi
        mov     $SIGTERM, %edi
        call    set
        lea     on_child(%rip), %rsi
        mov     $SIGCHLD, %edi
        call    set
wait:   mov     $SYS_pause, %eax
        syscall
        jmp     wait

# The action at rsi for the signal in edi. Failing means that the process would not end when told to: rather not start.
set:    xor     %edx, %edx
        mov     $8, %r10d
        mov     $SYS_rt_sigaction, %eax
        syscall
        test    %eax, %eax
        jnz     fail
        ret

end:    xor     %edi, %edi
        jmp     exit
fail:   mov     $1, %edi
exit:   mov     $SYS_exit_group, %eax
        syscall

# Read-only, and in the text section, so that the file needs one segment only. x86-64 wants a restorer, but `end` never returns.
# The handler's address is filled in by the linker: the program is not relocatable.
        .balign 8
on_end: .quad   end, SA_RESTORER, end, 0
on_child:
        .quad   SIG_IGN, SA_NOCLDWAIT, 0, 0
