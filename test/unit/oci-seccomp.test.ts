import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SecurityProfile_ProfileType as Profile } from '../../proto/gen/cri.ts';
import { DEFAULT_CAPABILITIES } from '../../src/node/oci/capabilities.ts';
import { encodeSpec } from '../../src/node/oci/encode.ts';
import { defaultSeccomp, parseSeccompProfile, seccompFile } from '../../src/node/oci/seccomp.ts';
import { ALLOWED } from '../../src/node/oci/syscalls.ts';
import type { SeccompRule } from '../../src/node/oci/types.ts';

const KERNEL = { arch: 'x64', kernel: '6.1.0' };

/** Names that are allowed whatever their arguments. */
function allowed(capabilities: string[] = DEFAULT_CAPABILITIES, host = KERNEL): Set<string> {
  const rules = defaultSeccomp(capabilities, host).syscalls ?? [];
  return new Set(
    rules.filter(({ args, action }) => args === undefined && action === 'SCMP_ACT_ALLOW').flatMap(({ names }) => names),
  );
}

function rules(
  name: string,
  capabilities: string[] = DEFAULT_CAPABILITIES,
  host = KERNEL,
): Omit<SeccompRule, 'names'>[] {
  return (defaultSeccomp(capabilities, host).syscalls ?? [])
    .filter(({ names }) => names.includes(name))
    .map(({ names: _, ...rule }) => rule);
}

describe('the default seccomp profile', () => {
  test('names each call once', () => {
    const names: string[] = Object.values(ALLOWED).flat();
    assert.equal(new Set(names).size, names.length);
    assert.ok(names.every((name) => /^[a-z_0-9]+$/.test(name)));
    assert.ok(names.length > 340);
  });

  test('allows ordinary programs and denies calls that change the host', () => {
    const names = allowed();
    for (const name of [
      'read',
      'openat2',
      'execve',
      'futex_waitv',
      'clock_nanosleep_time64',
      'statx',
      'landlock_create_ruleset',
      'ptrace',
    ]) {
      assert.ok(names.has(name), name);
    }
    for (const name of [
      'mount',
      'unshare',
      'setns',
      'reboot',
      'bpf',
      'keyctl',
      'add_key',
      'io_uring_setup',
      'kexec_load',
      'init_module',
      'userfaultfd',
      'swapon',
      'perf_event_open',
      'open_by_handle_at',
      'settimeofday',
      'clone',
      'clone3',
      'personality',
      'socket',
    ]) {
      assert.ok(!names.has(name), name);
    }
    assert.ok(names.has('chroot')); // the default set has CAP_SYS_CHROOT
    assert.ok(!allowed([]).has('chroot'));
  });

  test('sockets of all families but AF_ALG and AF_VSOCK', () => {
    const arg = (op: string, value: number) => ({ action: 'SCMP_ACT_ALLOW', args: [{ index: 0, op, value }] });
    assert.deepEqual(rules('socket'), [arg('SCMP_CMP_LT', 38), arg('SCMP_CMP_EQ', 39), arg('SCMP_CMP_GT', 40)]);
  });

  test('five personalities', () => {
    const values = rules('personality').map(({ args }) => args?.map(({ op, value }) => [op, value]));
    assert.deepEqual(
      values,
      [0, 8, 0x20000, 0x20008, 0xffffffff].map((value) => [['SCMP_CMP_EQ', value]]),
    );
  });

  test('clone without namespace flags; clone3 fails with ENOSYS', () => {
    const mask = { op: 'SCMP_CMP_MASKED_EQ', value: 0x7e020000, valueTwo: 0 };
    assert.deepEqual(rules('clone'), [{ action: 'SCMP_ACT_ALLOW', args: [{ index: 0, ...mask }] }]);
    assert.deepEqual(rules('clone3'), [{ action: 'SCMP_ACT_ERRNO', errnoRet: 38 }]);
    const s390 = rules('clone', [], { ...KERNEL, arch: 's390x' });
    assert.deepEqual(s390, [{ action: 'SCMP_ACT_ALLOW', args: [{ index: 1, ...mask }] }]);
    assert.deepEqual(rules('clone3', ['CAP_SYS_ADMIN']), [{ action: 'SCMP_ACT_ALLOW' }]);
    assert.deepEqual(rules('clone', ['CAP_SYS_ADMIN']), [{ action: 'SCMP_ACT_ALLOW' }]);
  });

  for (const [capability, names] of Object.entries({
    CAP_DAC_READ_SEARCH: ['open_by_handle_at'],
    CAP_SYS_ADMIN: [
      'mount',
      'umount2',
      'setns',
      'unshare',
      'sethostname',
      'fsopen',
      'bpf',
      'perf_event_open',
      'quotactl_fd',
      'syslog',
    ],
    CAP_SYS_BOOT: ['reboot'],
    CAP_SYS_CHROOT: ['chroot'],
    CAP_SYS_MODULE: ['init_module', 'finit_module', 'delete_module'],
    CAP_SYS_PACCT: ['acct'],
    CAP_SYS_PTRACE: ['kcmp', 'pidfd_getfd', 'process_madvise'],
    CAP_SYS_RAWIO: ['iopl', 'ioperm'],
    CAP_SYS_TIME: ['settimeofday', 'stime', 'clock_settime', 'clock_settime64'],
    CAP_SYS_TTY_CONFIG: ['vhangup'],
    CAP_SYS_NICE: ['mbind', 'set_mempolicy', 'get_mempolicy', 'set_mempolicy_home_node'],
    CAP_SYSLOG: ['syslog'],
    CAP_BPF: ['bpf'],
    CAP_PERFMON: ['perf_event_open'],
  })) {
    test(`${capability} opens ${names.join(', ')}`, () => {
      const without = allowed([]);
      const given = allowed([capability]);
      for (const name of names) assert.deepEqual([without.has(name), given.has(name)], [false, true], name);
    });
  }

  test('tracing needs Linux 4.8', () => {
    assert.ok(!allowed([], { ...KERNEL, kernel: '4.4.0' }).has('ptrace'));
    assert.ok(allowed([], { ...KERNEL, kernel: '4.8.0' }).has('process_vm_readv'));
    assert.ok(allowed(['CAP_SYS_PTRACE'], { ...KERNEL, kernel: '4.4.0' }).has('ptrace'));
  });

  test('architectures', () => {
    assert.deepEqual(defaultSeccomp([], KERNEL).architectures, ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32']);
    assert.deepEqual(defaultSeccomp([], { ...KERNEL, arch: 'arm64' }).architectures, [
      'SCMP_ARCH_AARCH64',
      'SCMP_ARCH_ARM',
    ]);
    assert.ok(allowed().has('arch_prctl'));
    assert.ok(!allowed([], { ...KERNEL, arch: 'arm64' }).has('arch_prctl'));
    assert.ok(allowed([], { ...KERNEL, arch: 'arm64' }).has('cacheflush'));
  });
});

describe('Localhost profiles', () => {
  test('which file to read', () => {
    const localhost = (localhostRef: string) => ({ profileType: Profile.Localhost, localhostRef });
    assert.equal(seccompFile(localhost('/p/a.json'), '', false), '/p/a.json');
    assert.equal(seccompFile(localhost('localhost//p/a.json'), '', false), '/p/a.json');
    assert.equal(seccompFile(undefined, 'localhost//p/b.json', false), '/p/b.json');
    assert.equal(
      seccompFile({ profileType: Profile.RuntimeDefault, localhostRef: '' }, 'localhost//p/b.json', false),
      undefined,
    );
    assert.equal(seccompFile(localhost('/p/a.json'), '', true), undefined);
    assert.equal(seccompFile(undefined, '', false), undefined);
    assert.throws(() => seccompFile(localhost('a.json'), '', false), {
      code: 'INVALID_REQUEST',
      message: /"a\.json" is not an absolute path/,
    });
  });

  test('their format', () => {
    const text =
      '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":18446744073709551615,"op":"SCMP_CMP_EQ"}]}]}';
    assert.equal(encodeSpec(parseSeccompProfile(text, '/p') as never), text);
    assert.throws(() => parseSeccompProfile('{', '/p'), {
      code: 'INVALID_REQUEST',
      message: /"\/p" is not valid JSON/,
    });
    assert.throws(() => parseSeccompProfile('[]', '/p'), { code: 'INVALID_REQUEST', message: /defaultAction/ });
    assert.throws(() => parseSeccompProfile('null', '/p'), { code: 'INVALID_REQUEST', message: /defaultAction/ });
  });
});
