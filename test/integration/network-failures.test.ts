/** The net worker with plugins that misbehave: shell scripts in a temporary folder. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { explain, type SluiceError } from '../../src/errors.ts';
import type { CniCall, PluginRun } from '../../src/workers/net/types.ts';
import { handlers } from '../../src/workers/net.ts';

const RESULT = '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.9.0.2/24","interface":0}]}';

interface Rig {
  dir: string;
  /** The call for a network of these plugins; each is a script, its body in POSIX shell. */
  call: (plugins: Record<string, string>, more?: { timeoutMs?: number; cniVersion?: string }) => CniCall;
  /** Lines that scripts appended to $LOG. */
  log: () => string[];
  records: () => string[];
}

function rig(t: TestContext): Rig {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-cni-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const [bin, cacheDir, logFile] = [join(dir, 'bin'), join(dir, 'cache'), join(dir, 'log')];
  mkdirSync(bin);
  return {
    dir,
    call(plugins, { timeoutMs = 5000, cniVersion = '1.0.0' } = {}) {
      for (const [type, body] of Object.entries(plugins)) {
        writeFileSync(join(bin, type), `#!/bin/sh\nLOG=${logFile}; DIR=${dir}; CONF=$(cat)\n${body}\n`, {
          mode: 0o755,
        });
      }
      const network = {
        name: 'net',
        cniVersion,
        source: 'test',
        plugins: Object.keys(plugins).map((type) => ({ type, capabilities: { portMappings: type === 'first' } })),
      };
      const attachment = {
        network,
        containerId: 'pod1',
        netns: join(dir, 'gone'),
        ifName: 'eth0',
        args: [
          ['IgnoreUnknown', '1'],
          ['K8S_POD_NAME', 'web'],
        ] as [string, string][],
        capabilityArgs: { portMappings: [{ hostPort: 80 }] },
      };
      return { attachment, binDirs: [join(dir, 'none'), bin], cacheDir, timeoutMs };
    },
    log: () => (existsSync(logFile) ? readFileSync(logFile, 'utf8').trim().split('\n') : []),
    records: () => (existsSync(join(cacheDir, 'results')) ? readdirSync(join(cacheDir, 'results')) : []),
  };
}

/** The failure of a call: its code, the chain of causes as one line, and its plugin runs. */
async function failure(work: Promise<unknown>): Promise<{ code: string; text: string; runs: PluginRun[] }> {
  try {
    await work;
  } catch (error) {
    const { code, details } = error as SluiceError;
    return { code, text: explain(error), runs: (details as { plugins: PluginRun[] }).plugins };
  }
  throw new assert.AssertionError({ message: 'it did not fail' });
}

const outcomes = (runs: PluginRun[]) => runs.map(({ plugin, command, outcome }) => `${plugin} ${command} ${outcome}`);

test('each plugin gets its parameters, capabilities and the previous result; DEL runs in reverse order with the last', async (t) => {
  const { call, log, records } = rig(t);
  const note =
    'echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS [$CNI_NETNS] $GOMAXPROCS $(basename $CNI_PATH) $CONF" >> $LOG';
  const both = call({ first: `${note}; echo '${RESULT}'`, second: `${note}; echo '${RESULT}' | sed s/eth0/renamed/` });
  const { result, plugins } = await handlers.cniAdd(both);
  assert.deepEqual(result.interfaces, [{ name: 'renamed' }]);
  assert.deepEqual(outcomes(plugins), ['first ADD ok', 'second ADD ok']);
  assert.ok(plugins.every(({ seconds, spawnSeconds }) => spawnSeconds > 0 && seconds > spawnSeconds));
  assert.deepEqual(records(), ['net-pod1-eth0']);
  await handlers.cniDel(both);
  assert.deepEqual(records(), []);

  const netns = both.attachment.netns;
  const [add1, add2, del2, del1] = log().map((line) => {
    const at = line.indexOf('{');
    return { orders: line.slice(0, at - 1), conf: JSON.parse(line.slice(at)) };
  });
  assert.equal(add1?.orders, `ADD pod1 eth0 IgnoreUnknown=1;K8S_POD_NAME=web [${netns}] 2 bin`);
  assert.equal(del1?.orders, 'DEL pod1 eth0 IgnoreUnknown=1;K8S_POD_NAME=web [] 2 bin', 'the namespace is gone');
  assert.deepEqual(add1?.conf, {
    type: 'first',
    name: 'net',
    cniVersion: '1.0.0',
    capabilities: { portMappings: true },
    runtimeConfig: { portMappings: [{ hostPort: 80 }] },
  });
  assert.equal(add2?.conf.runtimeConfig, undefined);
  assert.deepEqual(add2?.conf.prevResult, JSON.parse(RESULT));
  assert.equal(del2?.conf.type, 'second');
  for (const del of [del1, del2]) assert.equal(del?.conf.prevResult.interfaces[0].name, 'renamed');
});

test('before 0.4.0 DEL gets no result', async (t) => {
  const { call, log } = rig(t);
  const old = call({ first: `echo "$CNI_COMMAND $CONF" >> $LOG; echo '{"ips":[]}'` }, { cniVersion: '0.3.1' });
  await handlers.cniAdd(old);
  await handlers.cniDel(old);
  assert.deepEqual(
    log().map((line) => line.includes('prevResult')),
    [false, false],
  );
});

test('the record is written before the first plugin runs, with what DEL needs', async (t) => {
  const { dir, call } = rig(t);
  await handlers.cniAdd(call({ first: `cp $DIR/cache/results/net-pod1-eth0 $DIR/early; echo '${RESULT}'` }));
  const early = JSON.parse(readFileSync(join(dir, 'early'), 'utf8'));
  assert.equal(early.kind, 'cniCacheV1');
  assert.equal(early.result, undefined);
  assert.equal(JSON.parse(Buffer.from(early.config, 'base64').toString()).plugins[0].type, 'first');
  const late = JSON.parse(readFileSync(join(dir, 'cache', 'results', 'net-pod1-eth0'), 'utf8'));
  assert.deepEqual(late.result, JSON.parse(RESULT));
  assert.deepEqual(late.cniArgs[1], ['K8S_POD_NAME', 'web']);
});

test('a missing plugin: no other one is run, the folders are named, and DEL has nothing to do', async (t) => {
  const { dir, call, log, records } = rig(t);
  const broken = call({ first: 'echo ran >> $LOG', second: '' });
  rmSync(join(dir, 'bin', 'second'));
  const { code, text } = await failure(handlers.cniAdd(broken));
  assert.equal(code, 'CNI_FAILED');
  assert.match(text, new RegExp(`plugin second is in none of the folders ${dir}/none, ${dir}/bin`));
  assert.deepEqual([log(), records()], [[], []]);
  await handlers.cniDel(broken);
});

test('a plugin that vanished after ADD fails DEL until it is back; the others still run', async (t) => {
  const { dir, call, log, records } = rig(t);
  const body = `echo "$CNI_COMMAND" >> $LOG; echo '${RESULT}'`;
  const pod = call({ first: body, second: body });
  await handlers.cniAdd(pod);
  rmSync(join(dir, 'bin', 'second'));
  assert.match((await failure(handlers.cniDel(pod))).text, /plugin second is in none/);
  assert.deepEqual(log(), ['ADD', 'ADD', 'DEL']);
  assert.deepEqual(records(), ['net-pod1-eth0']);
  call({ second: body });
  await handlers.cniDel(pod);
  assert.deepEqual(records(), []);
});

test('the plugin’s own error is in the message whole, with the end of stderr', async (t) => {
  const { call } = rig(t);
  const says = `echo '{"cniVersion":"1.0.0","code":7,"msg":"bad range","details":"subnet is full"}'; echo 'trace 1' >&2; exit 1`;
  const { code, text, runs } = await failure(handlers.cniAdd(call({ first: says })));
  assert.equal(code, 'CNI_FAILED');
  assert.equal(text, 'plugin first (ADD, network net) failed: bad range: subnet is full (CNI code 7); stderr: trace 1');
  assert.deepEqual(outcomes(runs), ['first ADD error']);
});

test('failures without the error object: plain text, silence, a signal', async (t) => {
  const { call } = rig(t);
  assert.match(
    (await failure(handlers.cniAdd(call({ first: 'echo panic: nil map; exit 2' })))).text,
    /failed: panic: nil map$/,
  );
  assert.match(
    (await failure(handlers.cniAdd(call({ first: 'exit 3' })))).text,
    /exit status 3, and it printed nothing/,
  );
  assert.match((await failure(handlers.cniAdd(call({ first: 'kill -9 $$' })))).text, /was ended by signal 9/);
});

test('success with invalid output is a failure that quotes it', async (t) => {
  const { call } = rig(t);
  const { code, text, runs } = await failure(handlers.cniAdd(call({ first: 'echo "Error: not a result"' })));
  assert.equal(code, 'CNI_FAILED');
  assert.match(text, /plugin first \(ADD, network net\): printed something that is not JSON: Error: not a result/);
  assert.deepEqual(outcomes(runs), ['first ADD error']);
  assert.match((await failure(handlers.cniAdd(call({ first: 'true' })))).text, /printed no result/);
  const flood = call({ first: 'yes | head -c 3000000' });
  assert.match((await failure(handlers.cniAdd(flood))).text, /printed more than 1048576 bytes/);
});

test('the time limit ends the plugin and its children', async (t) => {
  const { dir, call } = rig(t);
  const slow = call(
    { first: '(echo child >&2; sleep 30; echo late > $DIR/late) & echo $! > $DIR/child; wait' },
    { timeoutMs: 300 },
  );
  const began = performance.now();
  const { code, text, runs } = await failure(handlers.cniAdd(slow));
  assert.ok(performance.now() - began < 2000);
  assert.equal(code, 'TIMED_OUT');
  assert.match(text, /did not end within 0.3 s and was killed; stderr: child/);
  assert.deepEqual(outcomes(runs), ['first ADD timeout']);
  const child = readFileSync(join(dir, 'child'), 'utf8').trim();
  for (let waited = 0; existsSync(`/proc/${child}`) && !isZombie(child); waited += 20) {
    assert.ok(waited < 1000, 'the child lives on');
    await sleep(20);
  }
});

function isZombie(pid: string): boolean {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return true;
  }
}

for (const [how, refusal] of [
  ['CNI code 11', '{"code":11,"msg":"agent not up yet"}'],
  [
    'HTTP 429',
    '{"code":999,"msg":"unable to create endpoint: [PUT /endpoint/{id}][429] putEndpointIdTooManyRequests"}',
  ],
]) {
  test(`"try again later" (${how}) is retried after a DEL`, async (t) => {
    const { call, log } = rig(t);
    const body = `echo $CNI_COMMAND >> $LOG
      [ $CNI_COMMAND = DEL ] && exit 0
      [ $(grep -c ADD $LOG) -ge 2 ] && { echo '${RESULT}'; exit 0; }
      echo '${refusal}'; exit 1`;
    const { plugins } = await handlers.cniAdd(call({ first: body }));
    assert.deepEqual(log(), ['ADD', 'DEL', 'ADD']);
    assert.deepEqual(outcomes(plugins), ['first ADD error', 'first DEL ok', 'first ADD ok']);
  });
}

test('a plugin that always returns "try again later" fails within the time limit, with its message', async (t) => {
  const { call, log } = rig(t);
  const began = performance.now();
  const body = `echo x >> $LOG; [ $CNI_COMMAND = DEL ] || { echo '{"code":11,"msg":"busy"}'; exit 1; }`;
  const { code, text } = await failure(handlers.cniAdd(call({ first: body }, { timeoutMs: 1500 })));
  assert.ok(performance.now() - began < 3000);
  assert.equal(code, 'CNI_FAILED');
  assert.match(text, /busy \(CNI code 11\)/);
  assert.ok(log().length >= 3);
});

test('other errors are not retried', async (t) => {
  const { call, log } = rig(t);
  await failure(handlers.cniAdd(call({ first: `echo x >> $LOG; echo '{"code":5,"msg":"no"}'; exit 1` })));
  assert.equal(log().length, 1);
});

test('DEL: all plugins run though the first fails; its error comes first, and the record stays for the next attempt', async (t) => {
  const { call, log, records } = rig(t);
  const ok = `echo $CNI_COMMAND >> $LOG; echo '${RESULT}'`;
  const bad = (why: string) =>
    `[ $CNI_COMMAND = ADD ] && { echo '${RESULT}'; exit 0; }; echo '{"code":100,"msg":"${why}"}'; exit 1`;
  const pod = call({ a: bad('table locked'), b: ok, c: bad('agent down') });
  await handlers.cniAdd(pod);
  const { text, runs } = await failure(handlers.cniDel(pod));
  assert.match(text, /^plugin c \(DEL, network net\) failed: agent down.*; also: plugin a .*table locked/);
  assert.deepEqual(outcomes(runs), ['c DEL error', 'b DEL ok', 'a DEL error']);
  assert.deepEqual(log(), ['ADD', 'DEL']);
  assert.deepEqual(records(), ['net-pod1-eth0']);
  call({ a: ok, c: ok });
  await handlers.cniDel(pod);
  assert.deepEqual(records(), []);
});

test('DEL succeeds when there is nothing to delete: code 3, or "not found" without the namespace', async (t) => {
  const { call, records } = rig(t);
  const says = (error: string) => `[ $CNI_COMMAND = ADD ] && { echo '${RESULT}'; exit 0; }; echo '${error}'; exit 1`;
  for (const error of ['{"code":3,"msg":"who?"}', '{"code":100,"msg":"failed to Statfs: no such file or directory"}']) {
    const pod = call({ first: says(error) });
    await handlers.cniAdd(pod);
    await handlers.cniDel(pod);
    assert.deepEqual(records(), []);
  }
  // While the namespace exists, the same message is a failure.
  const alive = call({ first: says('{"code":100,"msg":"link not found"}') });
  alive.attachment.netns = '/proc/self/ns/net';
  await handlers.cniAdd(alive);
  assert.match((await failure(handlers.cniDel(alive))).text, /link not found/);
});

test('DEL after the daemon was killed during ADD waits for the plugin that is still running', async (t) => {
  const { dir, call, log } = rig(t);
  const slow = `[ $CNI_COMMAND = ADD ] && { echo started >> $LOG; sleep 0.7; echo made >> $LOG; exit 0; }; echo deleted >> $LOG`;
  const pod = call({ first: slow });
  const net = new URL('../../src/workers/net.ts', import.meta.url).href;
  writeFileSync(join(dir, 'daemon.mjs'), `import { handlers } from '${net}'; handlers.cniAdd(${JSON.stringify(pod)});`);
  const daemon = spawn(process.execPath, [join(dir, 'daemon.mjs')], { stdio: 'inherit' });
  for (let waited = 0; log()[0] !== 'started'; waited += 20) {
    assert.ok(waited < 5000, 'the plugin was not started');
    await sleep(20);
  }
  daemon.kill('SIGKILL');
  await once(daemon, 'exit');
  await handlers.cniDel(pod);
  assert.deepEqual(log(), ['started', 'made', 'deleted']);

  // A plugin that never ends delays DEL for the time limit at most.
  rmSync(join(dir, 'log'));
  const stuck = call(
    { first: `[ $CNI_COMMAND = ADD ] && { (sleep 5 >/dev/null 2>&1 & ); exit 1; }; echo deleted >> $LOG` },
    { timeoutMs: 400 },
  );
  await failure(handlers.cniAdd(stuck));
  const began = performance.now();
  await handlers.cniDel(stuck);
  assert.ok(performance.now() - began > 350);
  assert.deepEqual(log(), ['deleted']);
});

test('a damaged record does not prevent DEL', async (t) => {
  const { dir, call, log, records } = rig(t);
  const pod = call({ first: `echo "$CNI_COMMAND $CONF" >> $LOG; echo '${RESULT}'` });
  await handlers.cniAdd(pod);
  writeFileSync(join(dir, 'cache', 'results', 'net-pod1-eth0'), '{"kind":"cniCa');
  await handlers.cniDel(pod);
  assert.doesNotMatch(log()[1] ?? '', /prevResult/);
  assert.deepEqual(records(), []);
});

test('a program that is being replaced (ETXTBSY) is retried', async (t) => {
  const { dir, call } = rig(t);
  const pod = call({ first: '' });
  writeFileSync(join(dir, 'script'), `cat > /dev/null; echo '${RESULT}'`);
  rmSync(join(dir, 'bin', 'first'));
  // A copy of the shell that is held open for writing by another process.
  const { run } = await import('../../src/sys/spawn.ts');
  const argv = ['sh', '-c', `cp /bin/echo ${dir}/bin/first; exec 9>>${dir}/bin/first; touch ${dir}/held; sleep 0.5`];
  const holder = run({ path: '/bin/sh', argv, env: { PATH: '/usr/bin:/bin' }, timeoutMs: 5000 });
  while (!existsSync(join(dir, 'held'))) await sleep(5);
  const { text, runs } = await failure(handlers.cniAdd(pod)); // echo prints an empty line, which is not a result, but the plugin was run
  assert.match(text, /printed no result/);
  assert.ok(runs.length >= 2, 'an attempt before the one that worked');
  await holder;
});

test('STATUS: run since 1.1.0; plugins without it count as ready; the first failure is thrown', async (t) => {
  const { dir, call, log } = rig(t);
  const status = ({ attachment, binDirs }: CniCall, timeoutMs = 5000) =>
    handlers.cniStatus({ network: attachment.network, binDirs, timeoutMs });
  const note = 'echo "$CNI_COMMAND [$CNI_CONTAINERID$CNI_NETNS$CNI_IFNAME]" >> $LOG';
  await status(call({ first: note }));
  assert.deepEqual(log(), []);
  const unknown = `${note}; echo '{"code":4,"msg":"unknown CNI_COMMAND: STATUS"}'; exit 1`;
  await status(call({ first: unknown, second: note }, { cniVersion: '1.1.0' }));
  assert.deepEqual(log(), ['STATUS []', 'STATUS []']);
  const down = call({ first: `echo '{"code":50,"msg":"agent down"}'; exit 1` }, { cniVersion: '1.1.0' });
  assert.match((await failure(status(down))).text, /agent down \(CNI code 50\)/);
  const hung = call({ first: 'sleep 20' }, { cniVersion: '1.1.0' });
  assert.equal((await failure(status(hung, 200))).code, 'TIMED_OUT');
  const missing = call({ first: '' });
  rmSync(join(dir, 'bin', 'first'));
  assert.match((await failure(status(missing))).text, /in none of the folders/);
});
