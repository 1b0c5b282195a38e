/**
 * Power cuts, simulated. strace records every write and sync of a store that is changed while a worker makes
 * checkpoints. A power cut is then any moment of that record: of each file there is what was synced before, and of the
 * writes since any part of the disk's sectors, in any order. Each such state is opened, and has to be a whole store
 * with the rows of one moment of the past.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Store } from '../../src/node/store/store.ts';
import { ext4InFile } from '../rig/disk.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { findProgram, privateFolder } from '../rig/paths.ts';
import { run, start, waitFor } from '../rig/proc.ts';

const skip = findProgram('strace') ? false : 'needs strace';
const noExt4 = skipUnlessRoot('mkfs.ext4', 'losetup');
const CHANGES = 600;
/** A disk writes whole sectors. */
const SECTOR = 512;

type Event =
  | { kind: 'write'; file: string; at: number; bytes: Buffer; thread: string; index: number }
  | { kind: 'truncate'; file: string; size: number; thread: string; index: number }
  /** The sync has begun: what was written before is on the disk as soon as it has ended. */
  | { kind: 'sync'; file: string; began: number; thread: string; index: number };

let folder: string;
let events: Event[];
let history: Map<string, number>;

before(async () => {
  if (skip) return;
  folder = mkdtempSync(join(tmpdir(), 'sluice-power-'));
  const trace = join(folder, 'trace');
  const options = ['-f', '-y', '-xx', '-s', '100000', '-e', 'trace=pwrite64,ftruncate,fsync,fdatasync', '-o', trace];
  const past = join(folder, 'history');
  // strace ends by the signal that its program ends by; the shell's own status is 0.
  await run('strace', [
    ...options,
    'sh',
    '-c',
    '"$@"; true',
    'sh',
    ...writer(join(folder, 'sluice.db'), past, CHANGES),
  ]);
  history = readHistory(past);
  assert.equal(history.size, CHANGES + 1, 'the writer has run to its end');
  events = parse(readFileSync(trace, 'latin1'));
});
after(() => {
  if (!skip) rmSync(folder, { recursive: true, force: true });
});

test('after a power cut at any moment the store is whole, and has the rows of a moment since the last checkpoint', {
  skip,
  timeout: 300_000,
}, () => {
  const found = cut(events, 1000);
  assert.deepEqual(found.broken, []);
  assert.ok(found.restarts >= 5, `the WAL has started anew ${found.restarts} times`);
  assert.ok(found.lossy > 100, `${found.lossy} of the states have lost changes: else nothing was cut`);
});

test('the simulation finds the corruption of a WAL whose new header is not synced', { skip, timeout: 300_000 }, () => {
  // As with synchronous = OFF: no sync but those of the checkpoints, which are the ones before and after writes of the
  // database.
  const found = cut(withoutHeaderSyncs(events), 700);
  assert.ok(found.broken.length > 0, 'a simulation that cannot find this one proves nothing');
});

test('main waits for no sync', { skip }, () => {
  const main = threadOfMain(events);
  const syncs = events.filter((event) => event.kind === 'sync' && event.thread === main);
  const checkpoints = events.filter(({ kind, file }) => kind === 'sync' && file === 'sluice.db').length;
  assert.ok(checkpoints >= 10, `${checkpoints} checkpoints`);
  // Making the store syncs. Later a write can come between a checkpoint and the worker's own write; here it hardly ever
  // does.
  const later = syncs.filter((event) => events.indexOf(event) > events.length / 10);
  assert.ok(later.length <= checkpoints / 4, `main has synced ${later.length} times`);
});

test('an ext4 that loses its power', { skip: noExt4, timeout: 300_000 }, async () => {
  const restarts = [];
  for (let round = 0; round < 6; round++) {
    await using disk = await ext4InFile(64);
    const folder = privateFolder('sluice-history');
    const past = join(folder, 'history');
    const [node = '', ...args] = writer(join(disk.path, 'sluice.db'), past, 1_000_000);
    const writing = start(node, args, join(folder, 'log'));
    await waitFor('some changes', 60_000, () => (existsSync(past) && statSync(past).size > 100_000) || undefined);
    await sleep(700 + round * 130);
    // The journal is given up at once: what the disk does not have by now it never gets.
    await run('mount', ['-o', 'remount,abort', disk.path]);
    await writing.stop(0); // unless its first refused write has ended it already
    await run('umount', [disk.path]);
    await run('mount', ['-o', 'loop', disk.image, disk.path]);
    const [problem, moment] = look(join(disk.path, 'sluice.db'), readHistory(past));
    assert.equal(problem, '');
    restarts.push(moment);
    rmSync(folder, { recursive: true, force: true });
  }
  assert.ok(
    restarts.some((moment) => moment > 0),
    'the disk has had some of the changes',
  );
});

/** The command of the writer. */
function writer(path: string, past: string, changes: number): string[] {
  return [process.execPath, join(import.meta.dirname, 'power-cut-writer.ts'), path, past, String(changes)];
}

/** The rows of each moment, with the number of changes before it. */
function readHistory(path: string): Map<string, number> {
  const moments = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  return new Map([['', 0], ...moments.map((rows, n) => [rows, n + 1] as const)]);
}

/** A new WAL's header is what is written at its beginning; the sync after it is the header's. */
function withoutHeaderSyncs(all: Event[]): Event[] {
  const headers = new Set<Event>();
  for (const [index, event] of all.entries()) {
    if (event.kind !== 'write' || !event.file.endsWith('-wal') || event.at !== 0) continue;
    const sync = all
      .slice(index)
      .find(({ kind, file, thread }) => kind === 'sync' && file === event.file && thread === event.thread);
    if (sync) headers.add(sync);
  }
  assert.ok(headers.size > 5);
  return all.filter((event) => !headers.has(event));
}

const threadOfMain = (all: Event[]) => all[0]?.thread;

/** Cuts the power `times` times and opens what is there then. */
function cut(all: Event[], times: number): { broken: string[]; lossy: number; restarts: number } {
  const random = seeded(20261126);
  const restarts = all.flatMap((event, index) =>
    event.kind === 'write' && event.file.endsWith('-wal') && event.at === 0 ? [index] : [],
  );
  const moments = Array.from({ length: times }, (_, n) => {
    // Half of the cuts soon after a new header, where it matters, the others anywhere.
    const restart = restarts[Math.floor(random() * restarts.length)] ?? 0;
    return n % 2 === 0
      ? Math.floor(random() * all.length)
      : Math.min(all.length - 1, restart + Math.floor(random() * 60));
  }).sort((a, b) => a - b);

  const files = new Map<string, Disk>();
  const broken: string[] = [];
  let lossy = 0;
  let synced = 0;
  let next = 0;
  for (const [index, event] of all.entries()) {
    const disk = files.get(event.file) ?? new Disk();
    files.set(event.file, disk);
    if (event.kind === 'write') disk.write(event.index, event.at, event.bytes);
    else if (event.kind === 'truncate') disk.truncate(event.index, event.size);
    else disk.sync(event.began);
    for (; moments[next] === index; next++) {
      const strategy = STRATEGIES[next % STRATEGIES.length] as Strategy;
      const path = join(folder, 'cut.db');
      for (const suffix of ['', '-wal', '-shm']) rmSync(path + suffix, { force: true });
      for (const [name, disk] of files)
        writeFileSync(name.endsWith('-wal') ? `${path}-wal` : path, disk.after(strategy(random()), random));
      const [problem, moment] = look(path, history);
      if (problem) broken.push(`${problem} (event ${index} of ${all.length})`);
      else if (moment < synced) broken.push(`${moment} changes, when ${synced} were synced (event ${index})`);
      else if (moment < CHANGES) lossy++;
      if (strategy === NOTHING) synced = Math.max(synced, moment);
    }
  }
  return { broken, lossy, restarts: restarts.length };
}

/**
 * The probability with which a sector of a write since the last sync is on the disk; `position` is the write's place
 * among them, 0 to 1.
 */
type Chance = (at: number, position: number) => number;

/** Makes what one power cut leaves of the writes since the last sync. */
type Strategy = (random: number) => Chance;

const NOTHING: Strategy = () => () => 0;
const STRATEGIES: readonly Strategy[] = [
  NOTHING,
  () => () => 1,
  (share) => () => share,
  () => (at) => (at < SECTOR ? 0 : 1), // all but the header
  (share) => (_, position) => (position < share ? 1 : 0), // the earlier writes
  (share) => (_, position) => (position < share ? 0 : 1), // the later writes
];

/** Opens the store of a power cut. Returns what is wrong with it, or the moment whose rows it has. */
function look(path: string, history: Map<string, number>): [string, 0] | ['', number] {
  const problems: string[] = [];
  const log = {
    info() {},
    warn() {},
    error: (about: unknown, message?: string) => void problems.push(`${message}: ${JSON.stringify(about)}`),
  };
  using store = new Store(path, { log: log as never });
  if (problems.length > 0) return [problems.join('; '), 0];
  const rows = [...store.layers.values()]
    .map((row) => `${row.id}:${row.size}`)
    .sort()
    .join(' ');
  const moment = history.get(rows);
  return moment === undefined ? [`these rows were never there together: ${rows}`, 0] : ['', moment];
}

/** A file on a disk with a cache: what is synced, and the writes since. */
class Disk {
  #synced: Buffer = Buffer.alloc(0);
  #since: { index: number; apply: (content: Buffer, chosen: (at: number) => boolean) => Buffer }[] = [];

  write(index: number, at: number, bytes: Buffer): void {
    this.#since.push({
      index,
      apply: (content, chosen) => {
        for (let from = at; from < at + bytes.length; ) {
          const to = Math.min(at + bytes.length, (Math.floor(from / SECTOR) + 1) * SECTOR);
          if (chosen(from)) {
            content = grown(content, to);
            bytes.copy(content, from, from - at, to - at);
          }
          from = to;
        }
        return content;
      },
    });
  }

  truncate(index: number, size: number): void {
    this.#since.push({
      index,
      apply: (content, chosen) => (chosen(0) ? Buffer.from(grown(content, size).subarray(0, size)) : content),
    });
  }

  sync(began: number): void {
    for (const { apply } of this.#since.filter(({ index }) => index < began))
      this.#synced = apply(this.#synced, () => true);
    this.#since = this.#since.filter(({ index }) => index >= began);
  }

  after(chance: Chance, random: () => number): Buffer {
    return this.#since.reduce(
      (content: Buffer, { apply }, n) => apply(content, (at) => random() < chance(at, n / this.#since.length)),
      Buffer.from(this.#synced),
    );
  }
}

function grown(content: Buffer, size: number): Buffer {
  return content.length >= size ? content : Buffer.concat([content, Buffer.alloc(size - content.length)]);
}

/**
 * Lines of strace as events, in the order in which the calls ended. A sync counts from when it began, a write from when
 * it ended.
 */
function parse(text: string): Event[] {
  const parsed: Event[] = [];
  const unfinished = new Map<string, { head: string; began: number }>();
  for (const line of text.split('\n')) {
    const [, thread = '', call = ''] = /^(\d+) +(.*)$/.exec(line) ?? [];
    if (call.endsWith('<unfinished ...>')) {
      unfinished.set(thread, { head: call.replace(/ *<unfinished \.\.\.>$/, ''), began: parsed.length });
      continue;
    }
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(call);
    const begun = resumed ? unfinished.get(thread) : undefined;
    const whole = begun ? begun.head + (resumed?.[1] ?? '') : call;
    const began = begun?.began ?? parsed.length;
    const [, name, hexPath = '', rest = ''] = /^(\w+)\(\d+<([^>]*)>(?:, )?(.*)$/.exec(whole) ?? [];
    const file = basename(fromHex(hexPath).toString());
    if (!/^sluice\.db(-wal)?$/.test(file)) continue;
    const index = parsed.length;
    if (name === 'pwrite64') {
      const [, hex = '', at = ''] = /^"([^"]*)", \d+, (\d+)\) += \d+$/.exec(rest) ?? [];
      assert.ok(at, `a write that is not understood: ${whole.slice(-100)}`);
      parsed.push({ kind: 'write', file, at: Number(at), bytes: fromHex(hex), thread, index });
    } else if (name === 'ftruncate') {
      parsed.push({ kind: 'truncate', file, size: Number(/^(\d+)/.exec(rest)?.[1]), thread, index });
    } else if (/\) += 0$/.test(whole)) parsed.push({ kind: 'sync', file, began, thread, index });
  }
  return parsed;
}

const fromHex = (text: string) =>
  text.includes('\\x') ? Buffer.from(text.replaceAll('\\x', ''), 'hex') : Buffer.from(text);

/** The same numbers in each run (mulberry32). */
function seeded(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
