/** The command line tool without a daemon: its table, what is made from it, and how a line ends. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { manualPages } from '../../scripts/release/man.ts';
import { optionsOf, printTable, useColor } from '../../src/main/cli/command.ts';
import { COMMANDS, GROUPS } from '../../src/main/cli/commands.ts';
import { completionScript, SHELLS } from '../../src/main/cli/completion.ts';
import { exitStatus } from '../../src/main/cli/exec.ts';
import { parseLogLine } from '../../src/main/cli/logs.ts';
import { runLine } from '../../src/main/cli/program.ts';
import { tar } from '../../src/main/cli/tar.ts';
import { freePort } from '../rig/proc.ts';

class Memory extends Writable {
  text = '';
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk;
    done();
  }
}

async function line(...argv: string[]) {
  const out = new Memory();
  const err = new Memory();
  const status = await runLine(argv, out, err);
  return { status, out: out.text, err: err.text };
}

function inFolder(work: (folder: string) => Promise<void> | void): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-cli-'));
  return Promise.try(work, folder).finally(() => rmSync(folder, { recursive: true }));
}

test('a mistyped command gets a suggestion and status 2, on standard error', async () => {
  for (const [words, meant] of [
    [['stauts'], 'status'],
    [['config', 'chek'], 'check'],
    [['pods', '--qiet'], '--quiet'],
  ] as const) {
    const { status, out, err } = await line(...words);
    assert.deepEqual([status, out], [2, '']);
    assert.match(err, new RegExp(`^sluice: unknown .*\\n.*Did you mean .*${meant}`));
  }
  const none = await line();
  assert.equal(none.status, 2);
  assert.match(none.err, /Usage: sluice/);
});

test('every command has help with status 0, and says what it is', async () => {
  for (const { name, summary } of COMMANDS) {
    const { status, out } = await line(...name.split(' '), '--help');
    assert.equal(status, 0, name);
    assert.ok(out.startsWith(`Usage: sluice ${name}`), out);
    assert.ok(out.replaceAll(/\s+/g, ' ').includes(summary), name);
  }
  assert.match((await line('--version')).out, /^sluice \d+\.\d+\.\d+\n$/);
});

test('every command that reports something has --json', () => {
  const without = COMMANDS.filter(({ json }) => !json).map(({ name }) => name);
  // What they print is what they are asked for, or JSON in any case.
  assert.deepEqual(without, ['exec', 'image inspect', 'image export', 'config default', 'completion']);
});

test('without a daemon: status 3, and the socket’s name', async () => {
  for (const command of ['pods', 'status', 'stats']) {
    const { status, err } = await line(command, '--socket', '/nonexistent/s.sock');
    assert.equal(status, 3, err);
    assert.equal(
      err,
      'sluice: no daemon answers at /nonexistent/s.sock: there is no such socket: is sluiced running? (systemctl status sluiced)\n',
    );
  }
  const port = await freePort();
  const { status, err } = await line('top', '--metrics', `127.0.0.1:${port}`);
  assert.equal(status, 3);
  assert.match(err, /^sluice: no daemon answers at 127\.0\.0\.1:\d+ \(metrics\.listen\): nobody listens there/);
});

test('config: check, show with origins, diff, over drop-ins', () =>
  inFolder(async (folder) => {
    const file = join(folder, 'config.toml');
    const dropIns = join(folder, 'conf.d');
    mkdirSync(dropIns);
    writeFileSync(file, 'socket = "/tmp/a.sock"\n[log]\nlevel = "warn"\n[cni]\nbin_dirs = ["/a", "/b"]\n');
    writeFileSync(join(dropIns, '10-one.toml'), '[log]\nlevel = "debug"\n[runtimes.crun]\n');
    writeFileSync(join(dropIns, '20-two.toml'), '[cni]\nbin_dirs = ["/c"]\n');
    writeFileSync(join(dropIns, 'ignored.txt'), 'not TOML');
    assert.deepEqual(await line('config', 'check', file), {
      status: 0,
      out: `${[file, join(dropIns, '10-one.toml'), join(dropIns, '20-two.toml')].join(', ')}: good\n`,
      err: '',
    });
    const shown = JSON.parse((await line('config', 'show', file, '--json')).out) as {
      key: string;
      value: unknown;
      from: string;
    }[];
    const of = (key: string) => shown.find((one) => one.key === key);
    assert.deepEqual(of('socket'), { key: 'socket', value: '/tmp/a.sock', from: `${file}:1` });
    assert.deepEqual(of('log.level'), { key: 'log.level', value: 'debug', from: `${dropIns}/10-one.toml:2` });
    assert.deepEqual(of('cni.bin_dirs'), { key: 'cni.bin_dirs', value: ['/c'], from: `${dropIns}/20-two.toml:2` });
    assert.equal(of('runtimes.crun.binary')?.from, 'default');
    assert.equal(of('root')?.from, 'default');
    const changed = JSON.parse((await line('config', 'diff', file, '--json')).out) as {
      key: string;
      default?: unknown;
      configured: unknown;
    }[];
    assert.deepEqual(
      changed
        .filter(({ key }) => !key.startsWith('runtimes.'))
        .map(({ key }) => key)
        .sort(),
      ['cni.bin_dirs', 'log.level', 'socket'],
    );
    assert.deepEqual(
      changed.find(({ key }) => key === 'log.level'),
      { key: 'log.level', default: 'info', configured: 'debug', from: `${dropIns}/10-one.toml:2` },
    );

    writeFileSync(join(dropIns, '30-bad.toml'), '\n[log]\nlevl = "x"\n');
    const bad = await line('config', 'check', file, '--json');
    assert.equal(bad.status, 1);
    assert.deepEqual(JSON.parse(bad.out).problems, [
      `${dropIns}/30-bad.toml:3: log.levl is not a key of the configuration; did you mean level?`,
    ]);
    writeFileSync(join(dropIns, '30-bad.toml'), 'a = \n');
    assert.match(
      JSON.parse((await line('config', 'check', file, '--json')).out).problems[0],
      /30-bad\.toml:1: is not TOML/,
    );
  }));

test('colours are for terminals, and not under NO_COLOR', () => {
  const terminal = Object.assign(new Memory(), { isTTY: true });
  assert.equal(useColor(terminal, {}), true);
  assert.equal(useColor(terminal, { NO_COLOR: '1' }), false);
  assert.equal(useColor(terminal, { NO_COLOR: '' }), true);
  assert.equal(useColor(terminal, { TERM: 'dumb' }), false);
  assert.equal(useColor(new Memory(), {}), false);
});

test('tables line up, numbers at the right', () => {
  const out = new Memory();
  printTable(
    out,
    ['NAME', 'N'],
    [
      ['a', 1],
      ['longer', 100],
    ],
  );
  assert.equal(out.text, 'NAME      N\na         1\nlonger  100\n');
});

/** What bash offers after `sluice WORDS…`, with a `sluice` of the test's own for ids. */
function bashOffers(...words: string[]): string[] {
  const script = `sluice() { case "$1" in pods) echo pod1 pod2;; ps) echo ctr1;; esac; }
${completionScript('bash', COMMANDS, GROUPS)}
COMP_WORDS=(sluice ${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length}; _sluice; echo "\${COMPREPLY[@]}"`;
  return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).trim().split(' ');
}

test('bash completes commands, seconds words, options, choices, and ids that the daemon knows', () => {
  assert.deepEqual(bashOffers('st'), ['status', 'stats']);
  assert.deepEqual(bashOffers('config', ''), ['default', 'check', 'show', 'diff']);
  assert.deepEqual(bashOffers('logs', '--fo'), ['--follow']);
  assert.deepEqual(bashOffers('logs', ''), ['ctr1']);
  assert.deepEqual(bashOffers('trace', ''), ['pod1', 'pod2']);
  assert.deepEqual(bashOffers('trace', '--job', 'Pull'), ['PullImage']);
  assert.deepEqual(bashOffers('log-level', 'd'), ['debug']);
  assert.deepEqual(bashOffers('completion', ''), [...SHELLS]);
});

test('scripts of all shells name every command and option', () =>
  inFolder((folder) => {
    for (const shell of SHELLS) {
      const script = completionScript(shell, COMMANDS, GROUPS);
      for (const command of COMMANDS) {
        assert.ok(script.includes(command.name.split(' ').at(-1) ?? ''), `${shell}: ${command.name}`);
        for (const { flags } of optionsOf(command)) {
          const long = /--([\w-]+)/.exec(flags)?.[1] ?? '';
          assert.ok(script.includes(shell === 'fish' ? `-l ${long}` : `--${long}`), `${shell}: ${flags}`);
        }
      }
      const checker = { bash: ['bash', '-n'], zsh: ['zsh', '-n'], fish: ['fish', '--no-execute'] }[shell];
      const file = join(folder, shell);
      writeFileSync(file, script);
      const checked = spawnSync(checker[0] ?? '', [...checker.slice(1), file], { encoding: 'utf8' });
      if (checked.error) console.log(`${shell} is not installed: its script is not parsed here`);
      else assert.equal(checked.status, 0, `${shell}: ${checked.stderr}`);
    }
  }));

test('the manual pages name every command, option and key, and are roff', () => {
  const pages = Object.fromEntries(manualPages('1.2.3', 0).map(({ path, text }) => [path, text]));
  const sluice = pages['man1/sluice.1'] ?? '';
  for (const command of COMMANDS) {
    assert.ok(sluice.includes(`.SS ${command.name.replaceAll('-', '\\-')}`), command.name);
  }
  assert.match(pages['man5/sluice.toml.5'] ?? '', /\.TP\n\\fBmax_running\\fR\n/);
  for (const [path, text] of Object.entries(pages)) {
    assert.match(text, /^[\n\x20-\x7e]*$/, `${path} is ASCII`);
    const checked = spawnSync('groff', ['-man', '-Tutf8', '-ww', '-z'], { input: text, encoding: 'utf8' });
    if (checked.error) console.log('groff is not installed: the pages are not formatted here');
    else assert.equal(checked.stderr, '', path);
  }
});

test('a line of a log', () => {
  const time = '2026-01-02T03:04:05.000000000Z';
  assert.deepEqual(parseLogLine(`${time} stderr F a b  c`), {
    time,
    stream: 'stderr',
    partial: false,
    content: 'a b  c',
  });
  assert.deepEqual(parseLogLine(`${time} stdout P `), { time, stream: 'stdout', partial: true, content: '' });
  assert.equal(parseLogLine('something else').content, 'something else');
});

test('the status that ends an exec', () => {
  assert.equal(exitStatus('{"status":"Success"}'), 0);
  const failure = {
    status: 'Failure',
    reason: 'NonZeroExitCode',
    details: { causes: [{ reason: 'ExitCode', message: '42' }] },
  };
  assert.equal(exitStatus(JSON.stringify(failure)), 42);
  assert.throws(() => exitStatus('{"status":"Failure","message":"no such program"}'), /no such program/);
  assert.throws(() => exitStatus(''), /broke/);
});

test('tar reads the archive', () =>
  inFolder((folder) => {
    const file = join(folder, 'a.tar');
    const data = Buffer.from('x'.repeat(1000));
    writeFileSync(
      file,
      tar(
        [
          { name: 'one/a.txt', data },
          { name: 'one/empty', data: Buffer.alloc(0) },
        ],
        1_700_000_000,
      ),
    );
    const listed = execFileSync('tar', ['-tvf', file], { encoding: 'utf8', env: { ...process.env, TZ: 'UTC' } });
    assert.match(
      listed,
      /^-rw------- 0\/0 +1000 2023-11-14 22:13 one\/a\.txt\n-rw------- 0\/0 +0 2023-11-14 22:13 one\/empty\n$/,
    );
    assert.equal(execFileSync('tar', ['-xOf', file, 'one/a.txt'], { encoding: 'utf8' }), data.toString());
    assert.throws(() => tar([{ name: 'x'.repeat(101), data }], 0), RangeError);
  }));
