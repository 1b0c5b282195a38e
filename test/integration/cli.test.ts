/** The command line tool beside a daemon with pods, and a reload of that daemon's configuration. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { NowView } from '../../src/node/observe/metrics-server.ts';
import { podConfig } from '../rig/messages.ts';
import { ROOT } from '../rig/paths.ts';
import { freePort, waitFor } from '../rig/proc.ts';
import { type ContainerLab, openContainerLab, SKIP, type TestPod } from './container-lab.ts';

interface Ended {
  status: number | null;
  out: string;
  err: string;
}

describe('sluice beside a daemon', { skip: SKIP }, () => {
  let lab: ContainerLab;
  let pod: TestPod;
  let container: string;
  before(async () => {
    lab = await openContainerLab({ index: 49, config: { log: { level: 'info' } } });
    pod = await lab.pod('cli');
    const script = 'echo to stdout; echo to stderr >&2; i=0; while :; do i=$((i+1)); echo line $i; sleep 1; done';
    container = await pod.run('main', ['sh', '-c', script], {
      envs: [{ key: 'DB_PASSWORD', value: Buffer.from('hunter2hunter2') }],
    });
  });
  after(async () => {
    await pod?.[Symbol.asyncDispose]();
    await lab?.[Symbol.asyncDispose]();
  });

  /** Runs the tool as a process, with its configuration named at the end of its own options. */
  function sluice(
    words: string[],
    input = '',
    options: string[] = ['--config', lab.daemon.configFile],
  ): Promise<Ended> {
    const [first = '', ...others] = words;
    const child = spawn(join(ROOT, 'bin/sluice'), [first, ...options, ...others], { stdio: 'pipe' });
    let out = '';
    let err = '';
    child.stdout.on('data', (data) => {
      out += data;
    });
    child.stderr.on('data', (data) => {
      err += data;
    });
    child.stdin.on('error', () => {}); // it need not read
    child.stdin.end(input);
    return new Promise((resolve) => child.on('close', (status) => resolve({ status, out, err })));
  }
  const json = async (...words: string[]) => {
    const { status, out, err } = await sluice([...words, '--json']);
    assert.equal(status, 0, err);
    return JSON.parse(out);
  };

  test('status, pods and ps say what runs', async () => {
    const text = await sluice(['status']);
    assert.equal(text.status, 0, text.err);
    assert.match(text.out, /^runtime: +ready$/m);
    assert.match(text.out, /^network: +ready$/m);
    assert.match(text.out, /^pods: +1 ready$/m);
    assert.equal((await json('status')).ready, true);
    assert.deepEqual((await sluice(['pods', '-q'])).out, `${pod.id}\n`);
    const [one] = await json('pods');
    assert.deepEqual([one.id, one.name, one.namespace, one.state], [pod.id, 'cli', 'rig', 'ready']);
    const [running] = await json('ps', '-p', 'rig/cli');
    assert.deepEqual([running.id, running.name, running.pod, running.state], [container, 'main', 'rig/cli', 'running']);
    assert.deepEqual(await json('ps', '--namespace', 'other'), []);
    assert.match((await sluice(['ps'])).out, new RegExp(`^CONTAINER.*\n${container.slice(0, 13)} .* running +main`));
  });

  test('logs: both streams, the tail, and what follows until the container ends', async () => {
    await waitFor('a line', 10_000, () => pod.log('main').includes('line 1') || undefined);
    const all = await sluice(['logs', 'main']);
    assert.match(all.out, /^to stdout\nline 1\n/);
    assert.equal(all.err, 'to stderr\n');
    assert.match((await sluice(['logs', '--tail', '1', 'cli/main'])).out, /^line \d+\n$/);
    const short = await pod.run('short', ['sh', '-c', 'echo begin; sleep 1; echo end; printf unfinished']);
    const followed = await sluice(['logs', '-f', short.slice(0, 10)]);
    assert.equal(followed.out, 'begin\nend\nunfinished');
    const missing = await sluice(['logs', 'nobody']);
    assert.deepEqual([missing.status, missing.err], [4, 'sluice: no container has the id "nobody"\n']);
  });

  test('exec passes output, input and the status on', async () => {
    const ran = await sluice(['exec', 'main', 'sh', '-c', 'echo out; echo err >&2; exit 42']);
    assert.deepEqual(ran, { status: 42, out: 'out\n', err: 'err\n' });
    const data = 'x'.repeat(300_000);
    const counted = await sluice(['exec', '-i', 'main', 'wc', '-c'], data);
    assert.deepEqual([counted.status, counted.out.trim()], [0, '300000'], counted.err);
    const none = await sluice(['exec', 'main', '/no/such/program']);
    assert.notEqual(none.status, 0);
  });

  test('stats and network show', async () => {
    const [usage] = await json('stats', '--interval', '0.5');
    assert.deepEqual([usage.id, usage.name], [pod.id, 'cli']);
    assert.ok(usage.memoryBytes > 0 && usage.processes >= 2, JSON.stringify(usage));
    const network = (await sluice(['network', 'show', '--config', lab.daemon.configFile, '--json'], '', [])).out;
    const { ready, name, source, plugins, pods } = JSON.parse(network);
    assert.equal(ready, true);
    assert.ok(name && source, network);
    assert.equal(plugins[0], 'bridge');
    const { status } = await lab.cri.podSandboxStatus({ podSandboxId: pod.id });
    assert.deepEqual(pods, [{ pod: 'rig/cli', ips: [status?.network?.ip] }]);
    const text = (await sluice(['network', 'show', '--config', lab.daemon.configFile], '', [])).out;
    assert.match(text, new RegExp(`^network: ${name}\nfrom:    .+\nplugins: bridge, .+\n`));
  });

  test('network check: every pod’s network is as it was made, until somebody changes it', async () => {
    const check = async () => {
      const { status, out } = await sluice(['network', 'check', '--config', lab.daemon.configFile, '--json'], '', []);
      return { status, pods: JSON.parse(out) as { pod: string; checked: boolean; failed?: string }[] };
    };
    const good = await check();
    assert.equal(good.status, 0, JSON.stringify(good));
    assert.deepEqual(
      good.pods.map(({ pod, checked, failed }) => [pod, checked, failed]),
      [['rig/cli', true, undefined]],
    );
    const { info } = await lab.cri.podSandboxStatus({ podSandboxId: pod.id, verbose: true });
    const { sandboxMetadata } = JSON.parse(info.info ?? '{}') as { sandboxMetadata?: { NetNSPath: string } };
    execFileSync('nsenter', [`--net=${sandboxMetadata?.NetNSPath}`, 'ip', 'route', 'del', 'default']);
    const bad = await check();
    assert.equal(bad.status, 1);
    assert.match(bad.pods[0]?.failed ?? '', /Expected Route \{Dst:0\.0\.0\.0\/0 .* not found in routing table/);
  });

  test('the built-in network is not taken away under a daemon', async () => {
    const { status, err } = await sluice(['network', 'remove', '--config', lab.daemon.configFile], '', []);
    assert.equal(status, 1);
    assert.match(err, /another daemon uses this folder/);
  });

  test('a reload applies what it can, says what needs a restart, and refuses mistakes', async () => {
    const { daemon } = lab;
    const metrics = `127.0.0.1:${await freePort()}`;
    const changed = {
      log: { level: 'debug' },
      metrics: { listen: metrics },
      runtimes: { again: { binary: 'runc' } },
      pipeline: { max_running: 17, limits: { network: 3 } },
      cni: { timeout_seconds: 33, loopback: 'plugin' },
      images: { max_downloads: 7 },
    };
    daemon.configure(changed);
    /** What each key needs that differs from what the daemon runs with. */
    const needed = async () => {
      const diff = await sluice(['config', 'diff', daemon.configFile, '--running', '--json'], '', []);
      const needs = Object.fromEntries(
        JSON.parse(diff.out).map((one: { key: string; needs: string }) => [one.key, one.needs]),
      );
      assert.equal(diff.status, Object.keys(needs).length > 0 ? 1 : 0);
      return needs;
    };
    const needs = await needed();
    assert.equal(needs['pipeline.limits.network'], 'reload');
    assert.equal(needs['cni.timeout_seconds'], 'reload');
    assert.equal(needs['images.max_downloads'], 'reload');
    assert.equal(needs['cni.loopback'], 'restart');

    process.kill(daemon.pid(), 'SIGHUP');
    const logged = await waitFor(
      'the reload',
      10_000,
      () => /"configuration reloaded"/.test(daemon.log()) || undefined,
    );
    assert.ok(logged);
    assert.match(daemon.log(), /"keys":\["cni\.loopback"\].*need a restart/);
    assert.deepEqual(await needed(), { 'cni.loopback': 'restart' }, 'what was said to need a reload is applied');
    const ask = async <T>(path: string) => (await (await fetch(`http://${metrics}${path}`)).json()) as T;
    const now = await ask<NowView>('/debug/now');
    assert.equal(now.stages.network?.limit, 3);
    assert.equal(now.lanes.launch?.limit, 17);
    await assert.rejects(fetch(`http://${daemon.metrics}/metrics`), 'the old address is closed');
    const { runtimeHandlers } = await lab.cri.status();
    assert.ok(runtimeHandlers.some(({ name }) => name === 'again'));
    await using other = await lab.pod('of-the-new-runtime', {});
    assert.ok(other.id);
    assert.equal((await ask<{ level: string }>('/debug/log-level')).level, 'debug');

    // A runtime that pods have stays until a restart, and `config diff` knows it.
    const again = async (configured: Record<string, unknown>) => {
      const reloads = daemon.log().match(/"configuration reloaded"/g)?.length ?? 0;
      daemon.configure(configured);
      process.kill(daemon.pid(), 'SIGHUP');
      await waitFor(
        'a reload',
        10_000,
        () => (daemon.log().match(/"configuration reloaded"/g)?.length ?? 0) > reloads || undefined,
      );
    };
    const { runtimes: _, ...without } = changed;
    const config = podConfig('of-the-other-runtime', { cgroupParent: daemon.cgroupParent });
    const { podSandboxId } = await lab.cri.runPodSandbox({ config, runtimeHandler: 'again' });
    await again(without);
    const kept = await needed();
    assert.equal(kept['runtimes.again.binary'], 'restart');
    await lab.cri.stopPodSandbox({ podSandboxId });
    await lab.cri.removePodSandbox({ podSandboxId });
    assert.equal((await needed())['runtimes.again.binary'], 'reload');

    // Metrics go off and on.
    await again({ ...changed, metrics: { listen: '' } });
    await assert.rejects(fetch(`http://${metrics}/metrics`), 'off');
    await again(changed);
    assert.equal((await fetch(`http://${metrics}/healthz`)).status, 200);

    daemon.configure({ ...changed, log: { level: 'loud' } });
    process.kill(daemon.pid(), 'SIGHUP');
    await waitFor('the refusal', 10_000, () => /was not reloaded.*|log\.level must be/.test(daemon.log()) || undefined);
    assert.equal((await ask<{ level: string }>('/debug/log-level')).level, 'debug');
    daemon.configure(changed);
  });

  test('a support bundle has everything but secrets', async () => {
    const file = join(lab.folder, 'bundle.tar.gz');
    const made = await sluice(['support-bundle', '-o', file, '--json']);
    assert.equal(made.status, 0, made.err);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const { files, failed } = JSON.parse(made.out) as { files: string[]; failed: string[] };
    const names = execFileSync('tar', ['-tzf', file], { encoding: 'utf8' }).trim().split('\n');
    assert.deepEqual(names, files);
    for (const name of ['config.txt', 'metrics.txt', 'launches.json', 'pods.json', 'status.json', 'machine.txt'])
      assert.ok(
        names.some((one) => one.endsWith(`/${name}`)),
        `${name} (failed: ${failed})`,
      );
    const text = execFileSync('tar', ['-xzOf', file], { encoding: 'utf8', maxBuffer: 64 << 20 });
    assert.match(text, /sluice_pods/);
    assert.match(text, new RegExp(pod.id));
    assert.doesNotMatch(text, /hunter2/);
    rmSync(file);
  });
});
