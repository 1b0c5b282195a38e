import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fstatSync } from 'node:fs';
import { test } from 'node:test';
import { createLog, type LogLevel, toJournal } from '../../src/node/observe/log.ts';
import { redact, redactText } from '../../src/node/observe/redact.ts';

function collect(level: LogLevel) {
  const lines: string[] = [];
  return { lines, log: createLog({ level, stream: { write: (line) => void lines.push(line) } }) };
}

test('the level changes at run time, for existing children too', () => {
  const { lines, log } = collect('info');
  const child = log.child({ pod: 'a/b' });
  child.debug('1');
  log.setLevel('debug');
  child.debug('2');
  log.setLevel('error');
  child.warn('3');
  child.error('4');
  assert.deepEqual(
    lines.map((line) => JSON.parse(line).message),
    ['2', '4'],
  );
  assert.equal(JSON.parse(lines[0] ?? '').pod, 'a/b');
  assert.equal(log.currentLevel, 'error');
  log.toggleDebug();
  assert.equal(log.currentLevel, 'debug');
  log.toggleDebug();
  assert.equal(log.currentLevel, 'info');
  assert.throws(() => log.setLevel('loud' as LogLevel), /unknown log level "loud"/);
});

test('lines are JSON with the level as a word and the time as text', () => {
  const { lines, log } = collect('info');
  log.warn({ err: new Error('outer', { cause: new Error('inner') }) }, 'hm');
  const line = JSON.parse(lines[0] ?? '');
  assert.equal(line.level, 'warn');
  assert.ok(!Number.isNaN(Date.parse(line.time)));
  assert.match(line.err.message, /outer/);
  assert.match(line.err.stack, /inner/);
});

test('credentials never reach the log', () => {
  const { lines, log } = collect('trace');
  const secret = 'hunter2hunter2';
  log.info(
    {
      request: {
        image: { image: 'r/x' },
        auth: { username: 'u', password: secret, identityToken: secret, registryToken: secret },
        headers: { Authorization: `Bearer ${secret}`, 'Set-Cookie': secret },
        config: {
          envs: [
            { key: 'DB_PASSWORD', value: secret },
            { key: 'HOME', value: '/root' },
          ],
          annotations: { plain: 'x' },
        },
        spec: { process: { env: ['PATH=/bin', `API_KEY=${secret}`, `GITHUB_TOKEN=${secret}`] } },
      },
    },
    `pulling https://user:${secret}@registry/x`,
  );
  log.error({ err: new Error(`GET http://u:${secret}@host/v2/ with Authorization: Basic ${secret}==`) }, 'failed');
  log.child({ step: 'x' }).debug({ error: `token "Bearer ${secret}"` }, 'again');
  for (const line of lines) {
    assert.ok(!line.includes(secret), line);
    JSON.parse(line);
  }
  const [first] = lines;
  assert.ok(first?.includes('/root') && first.includes('PATH=/bin') && first.includes('https://[redacted]@registry/x'));
});

test('redaction copies what it changes and leaves the rest as it is', () => {
  const value = { a: { password: 'x' }, b: { c: 1 } };
  const out = redact(value) as typeof value;
  assert.equal(value.a.password, 'x');
  assert.equal(out.a.password, '[redacted]');
  assert.equal(out.b, value.b);
  const plain = { a: [1, { b: 'text with = sign' }] };
  assert.equal(redact(plain), plain);
  const loop: Record<string, unknown> = {};
  loop.self = loop;
  assert.doesNotThrow(() => redact(loop));
  assert.equal(redactText('see https://host/path@x and a:b'), 'see https://host/path@x and a:b');
});

test('lines logged just before the process ends are written', () => {
  const script = `
    import { createLog } from ${JSON.stringify(new URL('../../src/node/observe/log.ts', import.meta.url).href)};
    const log = createLog({ level: 'info' });
    for (let i = 0; i < 2000; i++) log.info({ i }, 'line');
    process.exit(0);`;
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  const lines = stdout.trim().split('\n');
  assert.equal(lines.length, 2000);
  assert.equal(JSON.parse(lines.at(-1) ?? '').i, 1999);
});

test('for the journal each line begins with its priority', () => {
  const lines: string[] = [];
  const log = createLog({ level: 'debug', journal: true, stream: { write: (line) => void lines.push(line) } });
  log.error('e');
  log.warn('w');
  log.info('i');
  log.debug('d');
  assert.deepEqual(
    lines.map((line) => line.slice(0, 3)),
    ['<3>', '<4>', '<6>', '<7>'],
  );
  assert.equal(JSON.parse(lines[0]?.slice(3) ?? '').message, 'e');
});

test('the journal is recognised by device and inode of standard output', () => {
  const { dev, ino } = fstatSync(1);
  assert.equal(toJournal({ JOURNAL_STREAM: `${dev}:${ino}` }), true);
  assert.equal(toJournal({ JOURNAL_STREAM: `${dev}:${ino + 1}` }), false);
  assert.equal(toJournal({}), false);
});

test('standard output that takes nothing, as a file on a full disk, does not end the daemon', () => {
  const script = `
    import { createLog } from ${JSON.stringify(new URL('../../src/node/observe/log.ts', import.meta.url).href)};
    const log = createLog({ level: 'info' });
    for (let n = 0; n < 1000; n++) log.info({ n }, 'a line that cannot be written anywhere');
    setTimeout(() => {
      log.info('another');
      log.flush();
      console.error('alive');
    }, 600);
  `;
  const child = spawnSync(
    '/bin/sh',
    ['-c', 'exec "$0" --input-type=module-typescript -e "$1" >/dev/full', process.execPath, script],
    {
      encoding: 'utf8',
    },
  );
  assert.match(child.stderr, /alive/);
  assert.equal(child.status, 0, child.stderr);
});
