/**
 * What pods leave on a machine although they are gone is taken away after the tests (test/rig/as-found.ts): what has
 * come meanwhile, and only when nothing is in it.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, globSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { leaveAsFound } from '../rig/as-found.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { ownNamespace, sh } from './network-lab.ts';

const skip = skipUnlessRoot('iptables', 'ip6tables');
/** Any hierarchy will do; of v1, this one has no rules of its own. */
const HIERARCHY = globSync(['/sys/fs/cgroup/pids/cgroup.procs', '/sys/fs/cgroup/cgroup.procs']).map(dirname)[0] ?? '';

describe('a machine after the tests', { skip }, () => {
  test('empty cgroups of pods that have come meanwhile are gone, others stay', async () => {
    const at = (name: string) => join(HIERARCHY, `sluicefound${process.pid}${name}`);
    const [before, busy, empty] = [at('before'), at('busy'), at('empty')];
    const sleeper = spawn('sleep', ['60'], { stdio: 'ignore' });
    mkdirSync(before);
    try {
      {
        await using _ = await leaveAsFound();
        mkdirSync(join(empty, 'pod/container'), { recursive: true });
        mkdirSync(join(busy, 'pod'), { recursive: true });
        writeFileSync(join(busy, 'pod/cgroup.procs'), String(sleeper.pid));
      }
      assert.deepEqual([before, busy, empty].map(existsSync), [true, true, false]);
    } finally {
      sleeper.kill('SIGKILL');
      await once(sleeper, 'exit');
      for (const path of [join(busy, 'pod'), busy, join(empty, 'pod/container'), join(empty, 'pod'), empty, before])
        if (existsSync(path)) rmdirSync(path);
    }
  });

  test('so are the chains of the portmap plugin, unless they were there or a pod has a port', async () => {
    ownNamespace();
    const nat = (words: string) => sh(`iptables -t nat ${words}`);
    const chains = async () => (await nat('-S')).match(/^-N .*/gm) ?? [];
    const make = async () => {
      for (const chain of ['DNAT', 'SETMARK', 'MASQ']) await nat(`-N CNI-HOSTPORT-${chain}`);
      await nat('-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT');
      await nat('-A POSTROUTING -j CNI-HOSTPORT-MASQ');
      await nat('-A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000');
    };
    {
      await using _ = await leaveAsFound();
      await make();
      await nat('-N OF-OTHERS');
    }
    assert.deepEqual(await chains(), ['-N OF-OTHERS']);
    {
      await using _ = await leaveAsFound();
      await make();
      await nat('-A CNI-HOSTPORT-DNAT -p tcp --dport 80 -j MARK --set-xmark 0x1/0x1');
    }
    assert.equal((await chains()).length, 4);
    await nat('-F CNI-HOSTPORT-DNAT');
    {
      await using _ = await leaveAsFound();
    }
    assert.equal((await chains()).length, 4);
  });
});
