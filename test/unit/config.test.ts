import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { codeOf, SluiceError } from '../../src/errors.ts';
import { listenError, parseListen, parseSubnet } from '../../src/node/config/address.ts';
import { linesOf } from '../../src/node/config/lines.ts';
import { ConfigError, checkConfig, loadConfig, parseConfig, reloadConfig } from '../../src/node/config/load.ts';
import { printDefault } from '../../src/node/config/print.ts';
import { suggest } from '../../src/node/config/suggest.ts';
import { differences, needsRestart } from '../../src/node/config/values.ts';
import { STAGES } from '../../src/stages.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';

const machine = { cores: 2, name: 'runc' };
const parse = (text: string) => parseConfig(text, 'x.toml', machine);

/** The lines of the error that a text gives. */
function mistakes(text: string): string[] {
  try {
    parse(text);
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    assert.equal(codeOf(error), 'CONFIG_INVALID');
    return error.message.split('\n');
  }
  return [];
}

test('an empty file gives the defaults, completed', () => {
  const config = parse('');
  assert.equal(config.socket, '/run/sluice/sluice.sock');
  assert.equal(config.metrics.listen, '127.0.0.1:9477');
  assert.deepEqual(config.cni.bin_dirs, ['/opt/cni/bin', '/usr/lib/cni']);
  assert.deepEqual(Object.keys(config.runtimes), ['runc']);
  assert.equal(config.runtimes.runc?.binary, 'runc');
  assert.equal(config.runtimes.runc?.runtime_root, '/run/sluice/runc');
  assert.deepEqual(Object.keys(config.pipeline.limits).sort(), Object.keys(STAGES).sort());
  assert.equal(config.pipeline.max_running, 16);
  assert.equal(parseConfig('', 'x', { cores: 64, name: 'runc' }).pipeline.max_running, 512);
});

test('the printed default file is the defaults', () => {
  assert.deepEqual(parse(printDefault(machine)), parse(''));
  // Its commented values are the machine's own, so uncommenting them changes nothing either.
  const uncommented = printDefault(machine).replaceAll(/^# (\w+ = \d+)$/gm, '$1');
  assert.notEqual(uncommented, printDefault(machine));
  assert.deepEqual(parse(uncommented), parse(''));
});

test('a second runtime takes its name as its binary, and the state folder moves its root', () => {
  const config = parse(
    'state = "/tmp/s"\ndefault_runtime = "crun"\n[runtimes.crun]\n[runtimes.runc]\nbinary = "/opt/runc"',
  );
  assert.equal(config.runtimes.crun?.binary, 'crun');
  assert.equal(config.runtimes.crun?.shim, 'containerd-shim-runc-v2');
  assert.equal(config.runtimes.runc?.binary, '/opt/runc');
  assert.equal(config.runtimes.runc?.runtime_root, '/tmp/s/runc');
});

test('daemons with their own socket, root, state and metrics port share only what is meant to be shared', () => {
  const of = (name: string, port: number) =>
    parse(
      `socket = "/t/${name}/s.sock"\nroot = "/t/${name}/root"\nstate = "/t/${name}/state"\nmetrics.listen = "127.0.0.1:${port}"`,
    );
  const paths = (value: unknown): string[] =>
    typeof value === 'object' && value !== null
      ? Object.values(value).flatMap(paths)
      : typeof value === 'string' && (value.startsWith('/') || value.includes('127.0.0.1'))
        ? [value]
        : [];
  const mine = new Set(paths(of('a', 1)));
  // Read only, or keyed by random ids, or any free port.
  assert.deepEqual(
    paths(of('b', 2)).filter((path) => mine.has(path)),
    [
      '/etc/cni/net.d',
      '/opt/cni/bin',
      '/usr/lib/cni',
      '/var/lib/cni',
      '/var/run/netns',
      '/etc/containerd/certs.d:/etc/docker/certs.d',
      '127.0.0.1:0',
    ],
  );
});

test('all mistakes are reported at once, with lines and suggestions', () => {
  const text = `sockett = "/x"
max_running = 3
root = 3
default_runtime = "crnu"
tracing = 4
[cni]
conf_dir = "etc"  # = [x]
bin_dirs = [
  "/a", # ]
  4 ]
timeout_seconds = -1
netns_dir = 2024-01-01
[runtimes.crun]
shmi = "x"
[runtimes."k.x"]
binary = """
a"""
sandbox_mode = "vm"
[pipeline]
limits.network = 0
limits = { }
`;
  assert.deepEqual(mistakes(text).length, 1); // a table defined twice is a mistake in TOML itself
  assert.match(mistakes(text)[0] ?? '', /^x\.toml:21: is not TOML: /);
  assert.deepEqual(mistakes(text.replace('limits = { }', 'limits.netwrok = 1.5\n[metrics]\nlisten = "localhost"')), [
    'x.toml:1: sockett is not a key of the configuration; did you mean socket?',
    'x.toml:2: max_running is not a key of the configuration; did you mean pipeline.max_running?',
    'x.toml:3: root must be a string, not 3',
    'x.toml:4: default_runtime is "crnu", but there is no [runtimes.crnu]; did you mean "crun"?',
    'x.toml:5: tracing must be a table, not 4',
    'x.toml:7: cni.conf_dir must be an absolute path',
    'x.toml:8: cni.bin_dirs must be a list of strings, not a list with 4 in it',
    'x.toml:11: cni.timeout_seconds must be above 0',
    'x.toml:12: cni.netns_dir must be a string, not a date',
    'x.toml:14: runtimes.crun.shmi is not a key of the configuration; did you mean shim?',
    'x.toml:18: runtimes."k.x".sandbox_mode must be "auto" or "pause" or "pinned"',
    'x.toml:20: pipeline.limits.network must be at least 1',
    'x.toml:21: pipeline.limits.netwrok is not a key of the configuration; did you mean network?',
    'x.toml:23: metrics.listen must be host:port, with a port from 0 to 65535 and IPv6 hosts in brackets',
  ]);
});

const WRONG: [text: string, message: RegExp][] = [
  ['state = "/run/a,b"', /x\.toml:1: state must not contain a comma/],
  ['cni.netns_dir = "/run/a,b"', /must not contain a comma/],
  ['socket = "sluice.sock"', /x\.toml:1: socket must be an absolute path/],
  [`socket = "/${'é'.repeat(54)}"`, /socket is 109 bytes long; the path of a unix socket has at most 107/],
  ['state = "/a/../b"', /state must be a plain path: \/b/],
  ['root = "/a"\nstate = "/a"', /x\.toml:2: state must not be the same folder as root/],
  ['log.level = "loud"', /log\.level must be "trace" or "debug" or/],
  ['pipeline.max_running = 0', /must be at least 1/],
  ['pipeline.max_running = 1.5', /must be a whole number, not 1\.5/],
  ['pipeline.max_queued = nan', /must be a whole number, not NaN/],
  ['pipeline.limits.start = "4"', /must be a whole number, not the string "4"/],
  ['cni.bin_dirs = []', /cni\.bin_dirs must not be empty/],
  ['cni.bin_dirs = ["/a", "b"]', /must be an absolute path \(found "b"\)/],
  ['cni.builtin_subnet = "10.1.2.3/16"', /must be an IPv4 subnet/],
  ['images.registry_config = "/a:b"', /separated by ":" \(found "b"\)/],
  ['tracing.endpoint = "127.0.0.1:4318"', /must be an http or https URL/],
  ['streaming.tls_cert = "/a"', /x\.toml:1: streaming\.tls_cert needs streaming\.tls_key/],
  ['streaming.listen = ""', /streaming\.listen must be host:port/],
  ['runtimes.runc.binary = "bin/runc"', /must be a name to look up in PATH, or an absolute path/],
  ['runtimes."a b" = {}', /runtimes\."a b" is not a valid name of a runtime/],
  ['runtimes.runc = 1', /runtimes\.runc must be a table, not 1/],
  ['[[cni]]', /cni must be a table, not a list/],
  ['__proto__.a = 1', /unsafe/],
  ['a = ', /x\.toml:1: is not TOML/],
  ['\n\n"soc\\u006bet" = 1', /x\.toml:3: socket must be a string/],
];
for (const [text, message] of WRONG) test(`refused: ${text}`, () => assert.match(mistakes(text).join('\n'), message));

test('unusual valid values are accepted', () => {
  assert.deepEqual(
    mistakes(
      'socket = "/tmp/a b/s.sock"\nmetrics.listen = ""\nstreaming.listen = "[::1]:0"\ncni.builtin_subnet = ""\ncni.timeout_seconds = 0.5\npipeline.max_queued = 0\nroot = "/a/"',
    ),
    [],
  );
});

test('lines of keys after every kind of value', () => {
  const text = [
    'a = """', // 1
    'b = 1 # not a key',
    'x"""""', // two quotes before the closing fence
    "c = '''",
    "''' # '''", // 5
    'd = [ { e = 1 }, [ "]" ],', // 6
    '  { f = "}" } ]',
    '["g.h"  .  i]', // 8
    'j . k = 1 # [z]',
    '[[l]]', // 10
    'm = { n = 1, o.p = 2 }',
    "q = 'a\\'", // a literal string ends there
    'r = "a\\"b"',
    's = 1',
  ].join('\r\n');
  const line = linesOf(text);
  assert.equal(line(['a']), 1);
  assert.equal(line(['b']), undefined);
  assert.equal(line(['c']), 4);
  assert.equal(line(['d']), 6);
  assert.equal(line(['g.h', 'i']), 8);
  assert.equal(line(['g.h', 'i', 'j', 'k']), 9);
  assert.equal(line(['l', 'm', 'o', 'p']), 11);
  assert.equal(line(['l', 'q']), 12);
  assert.equal(line(['l', 's']), 14);
  assert.equal(line(['l', 'unknown']), 10, 'the nearest table');
});

test('suggestions are similar words, or none', () => {
  assert.equal(suggest('max_runing', ['max_running', 'max_queued']), 'max_running');
  assert.equal(suggest('maxRunning', ['max_running', 'max_queued']), 'max_running');
  assert.equal(suggest('scoket', ['socket', 'root']), 'socket');
  assert.equal(suggest('plugin_dir', ['socket', 'root']), undefined);
});

test('files: a named one must exist, the default one need not', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-config-'));
  try {
    const file = join(folder, 'c.toml');
    assert.throws(() => loadConfig(file), /c\.toml: cannot be read: ENOENT/);
    writeFileSync(file, 'socket = "/tmp/x.sock"\n[log]\nlevl = "info"\n');
    assert.deepEqual(checkConfig(file), [`${file}:3: log.levl is not a key of the configuration; did you mean level?`]);
    writeFileSync(file, 'socket = "/tmp/x.sock"\n');
    assert.deepEqual(checkConfig(file), []);
    assert.equal(loadConfig(file).socket, '/tmp/x.sock');
    assert.match(checkConfig(folder).join(), /cannot be read: EISDIR/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a running daemon reads the same files through a worker', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-config-'));
  try {
    const file = join(folder, 'c.toml');
    await assert.rejects(reloadConfig(file, hostFiles), /c\.toml: cannot be read: ENOENT/);
    writeFileSync(file, 'socket = "/tmp/x.sock"\n');
    assert.deepEqual(await reloadConfig(file, hostFiles), loadConfig(file));
    mkdirSync(join(folder, 'conf.d/no.toml.d'), { recursive: true });
    writeFileSync(join(folder, 'conf.d/20.toml'), 'socket = "/tmp/y.sock"\n');
    writeFileSync(join(folder, 'conf.d/10.toml'), '[log]\nlevel = "debug"\n');
    assert.deepEqual(await reloadConfig(file, hostFiles), loadConfig(file));
    assert.equal(loadConfig(file).socket, '/tmp/y.sock');
    writeFileSync(join(folder, 'conf.d/30.toml'), 'sockte = 1\n');
    await assert.rejects(reloadConfig(file, hostFiles), /30\.toml:1: sockte is not a key/);
    const hangs = () => Promise.reject(new SluiceError('TIMED_OUT', 'the nfs mount /x did not answer'));
    await assert.rejects(reloadConfig(file, { ...hostFiles, names: hangs }), /cannot be read: the nfs mount/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('addresses', () => {
  assert.deepEqual(parseListen('127.0.0.1:80'), { host: '127.0.0.1', port: 80 });
  assert.deepEqual(parseListen('[::1]:0'), { host: '::1', port: 0 });
  assert.deepEqual(parseListen('node-1.example:9'), { host: 'node-1.example', port: 9 });
  for (const bad of ['', '80', ':80', '::1:80', '[1.2.3.4]:1', '1.2.3:80', '1.2.3.4:65536', 'a b:1', 'a:', 'a:1:2']) {
    assert.equal(parseListen(bad), undefined, bad);
  }
  assert.deepEqual(parseSubnet('10.203.0.0/16'), { address: '10.203.0.0', prefix: 16 });
  for (const bad of ['10.203.0.0', '10.203.0.0/7', '10.203.0.0/30', '10.203.0.1/24', 'fd00::/64', '1.2.3.4/24/8']) {
    assert.equal(parseSubnet(bad), undefined, bad);
  }
  const taken = listenError('metrics.listen', '127.0.0.1:1', Object.assign(new Error('x'), { code: 'EADDRINUSE' }));
  assert.match(taken.message, /metrics\.listen = "127\.0\.0\.1:1": the port is in use/);
});

test('what a change needs: a reload or a restart; a runtime goes when no pod has it', () => {
  const before = parse('[runtimes.crun]\n');
  const after = parse('root = "/data"\n[cni]\ntimeout_seconds = 5\n[metrics]\nlisten = ""\n');
  const needs = (used: string[]) =>
    Object.fromEntries(
      differences(before, after).map((change) => [
        change.key.slice(0, 2).join('.'),
        needsRestart(change, new Set(used)) ? 'restart' : 'reload',
      ]),
    );
  const rest = { root: 'restart', 'cni.timeout_seconds': 'reload', 'metrics.listen': 'reload' };
  assert.deepEqual(needs([]), { ...rest, 'runtimes.crun': 'reload' });
  assert.deepEqual(needs(['runc', 'crun']), { ...rest, 'runtimes.crun': 'restart' });
});
