/** The store on a disk that is full or read-only, at the start and while the daemon runs. */
import assert from 'node:assert/strict';
import { cpSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { PodSandboxState } from '../../proto/gen/cri.ts';
import { codeOf, GRPC } from '../../src/errors.ts';
import { readOwners } from '../../src/node/leaks/leaks.ts';
import { Store } from '../../src/node/store/store.ts';
import { type Disk, ext4InFile, fill, freeBytes, quotaInFile, SKIP_QUOTA, smallTmpfs } from '../rig/disk.ts';
import { run, waitFor } from '../rig/proc.ts';
import { sandboxRow } from '../unit/store-fixture.ts';
import { type Lab, openLab, pausePid, SKIP } from './lab.ts';

const skip = SKIP;

async function stateOf({ daemon }: Lab, podSandboxId: string): Promise<PodSandboxState | undefined> {
  return (await daemon.cri.podSandboxStatus({ podSandboxId })).status?.state;
}

async function health({ daemon }: Lab): Promise<{ status: number; text: string }> {
  const response = await fetch(`http://${daemon.metrics}/healthz`);
  return { status: response.status, text: await response.text() };
}

/** The daemon looks at its folders every five seconds. */
async function isHealthy(lab: Lab): Promise<void> {
  await waitFor('/healthz to say yes', 15_000, async () => ((await health(lab)).status === 200 ? true : undefined));
}

async function pendingWrites({ daemon }: Lab): Promise<number> {
  return Number(/^sluice_store_writes_pending (\d+)$/m.exec(await daemon.scrape())?.[1] ?? -1);
}

/** What the store's file has of a pod. */
function stored(path: string, id: string): { state: string } | undefined {
  const db = new DatabaseSync(path, { readOnly: true });
  try {
    const found = db.prepare('SELECT row FROM sandboxes WHERE id = ?').get(id) as { row: string } | undefined;
    return found && (JSON.parse(found.row) as { state: string });
  } finally {
    db.close();
  }
}

for (const how of ['read-only', 'full', 'full, without a ballast', 'over quota', 'over quota, without a ballast']) {
  const quota = how.startsWith('over quota');
  for (const left of ['closed', 'killed']) {
    const options = { skip: skip || (quota && SKIP_QUOTA) };
    test(`the store alone, ${how}, as a daemon that was ${left} has left it`, options, async () => {
      await using disk = quota ? await quotaInFile(16) : await smallTmpfs(12);
      const path = join(disk.path, 'sluice.db');
      const filler = join(disk.path, 'filler');
      {
        using store = new Store(path);
        for (let id = 0; id < 20; id++) store.sandboxes.put(sandboxRow({ id: `p${id}`, name: `pod ${id}` }));
        // A connection that is closed removes the WAL; a killed process leaves it.
        if (left === 'killed') cpSync(disk.path, `${disk.path}-killed`, { recursive: true });
      }
      if (left === 'killed') {
        cpSync(`${disk.path}-killed`, disk.path, { recursive: true });
        rmSync(`${disk.path}-killed`, { recursive: true });
      }
      if (how.endsWith('without a ballast')) rmSync(`${path}.ballast`);
      if (how === 'read-only') await run('mount', ['-o', 'remount,ro', disk.path]);
      else fill(filler);

      using store = new Store(path);
      assert.equal(store.sandboxes.size, 20);
      const changed = store.sandboxes.get('p3');
      assert.ok(changed);
      changed.pid = 9;
      store.sandboxes.update(changed);
      store.sandboxes.delete('p4');
      const hasRoom = how === 'full' || how === 'over quota';
      assert.equal(store.pendingWrites, hasRoom ? 0 : 2);
      const insert = () => store.sandboxes.put(sandboxRow({ id: 'new', name: 'new' }));
      if (hasRoom) insert();
      else {
        const code = how === 'read-only' ? 'INTERNAL' : 'DISK_FULL';
        assert.throws(insert, (error) => codeOf(error) === code && /store cannot be written/.test(String(error)));
      }

      if (how === 'read-only') await run('mount', ['-o', 'remount,rw', disk.path]);
      else rmSync(filler);
      await waitFor('the store to be written', 10_000, () => store.trouble === undefined || undefined);
      using next = new Store(path);
      assert.equal(next.sandboxes.get('p3')?.pid, 9);
      assert.equal(next.sandboxes.get('p4'), undefined);
      assert.equal(next.sandboxes.size, hasRoom ? 20 : 19);
    });
  }
}

describe('a disk that is full or read-only when the daemon starts', { skip }, () => {
  let lab: Lab;
  let disk: Disk;
  before(async () => {
    disk = await smallTmpfs(24);
    lab = await openLab({ index: 23, root: disk.path });
  });
  after(async () => {
    await lab?.[Symbol.asyncDispose]();
    await disk?.[Symbol.asyncDispose]();
  });

  const ballast = () => join(lab.daemon.root, 'sluice.db.ballast');
  /** A start takes the room back at once, the running daemon within half a minute. */
  const takeBallast = async () => {
    if (existsSync(ballast())) return;
    await lab.daemon.stop();
    await lab.daemon.start();
    assert.ok(existsSync(ballast()));
  };

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    test(`full, after ${signal}: the start gives up the ballast, and the node can be emptied`, async () => {
      await takeBallast();
      const id = await lab.launch('up');
      await lab.daemon.stop(signal);
      const filler = join(disk.path, 'filler');
      fill(filler);
      try {
        assert.equal(freeBytes(disk.path), 0);
        await lab.daemon.start();
        assert.equal(await stateOf(lab, id), PodSandboxState.SANDBOX_READY);
        await lab.stopAndRemove(id);
      } finally {
        rmSync(filler);
      }
      await lab.assertSound(30_000);
    });
  }

  test('full, without a ballast: the daemon starts, changes wait in memory, and are written when there is room', async () => {
    const [id, stays] = await Promise.all([lab.launch('up'), lab.launch('stays')]);
    await lab.daemon.stop();
    rmSync(ballast(), { force: true });
    const filler = join(disk.path, 'filler');
    fill(filler);
    try {
      await lab.daemon.start();
      assert.equal(await stateOf(lab, id), PodSandboxState.SANDBOX_READY);
      const { status, text } = await health(lab);
      assert.equal(status, 503);
      assert.match(text, /the store cannot be written/);
      await lab.launchFails('refused', { code: GRPC.RESOURCE_EXHAUSTED, words: /store cannot be written|space|full/i });
      await lab.daemon.cri.stopPodSandbox({ podSandboxId: id });
      assert.equal(await stateOf(lab, id), PodSandboxState.SANDBOX_NOTREADY);
      assert.ok((await pendingWrites(lab)) > 0);
    } finally {
      rmSync(filler);
    }
    await waitFor('the changes to be written', 40_000, async () =>
      (await pendingWrites(lab)) === 0 ? true : undefined,
    );
    await isHealthy(lab);
    assert.equal(stored(join(lab.daemon.root, 'sluice.db'), id)?.state, 'stopped');
    await lab.daemon.stop('SIGKILL');
    await lab.daemon.start();
    assert.equal(await stateOf(lab, stays), PodSandboxState.SANDBOX_READY);
    for (const pod of [id, stays]) await lab.stopAndRemove(pod);
    await waitFor('the ballast', 40_000, () => existsSync(ballast()) || undefined);
    await lab.assertSound();
  });

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    test(`read-only, after ${signal}: the daemon starts with its pods, and writes once it may`, async () => {
      const id = await lab.launch('up');
      await lab.daemon.stop(signal);
      await run('mount', ['-o', 'remount,ro', disk.path]);
      try {
        await lab.daemon.start();
        assert.equal(await stateOf(lab, id), PodSandboxState.SANDBOX_READY);
        assert.equal((await health(lab)).status, 503);
        await lab.launchFails('refused', { words: /store cannot be written/ });
        await lab.daemon.cri.stopPodSandbox({ podSandboxId: id });
      } finally {
        await run('mount', ['-o', 'remount,rw', disk.path]);
      }
      await waitFor('the changes to be written', 40_000, async () =>
        (await health(lab)).status === 200 ? true : undefined,
      );
      assert.equal(stored(join(lab.daemon.root, 'sluice.db'), id)?.state, 'stopped');
      await lab.stopAndRemove(id);
      await lab.assertSound(30_000);
    });
  }

  test('a store of a newer Sluice is refused with its name, and is left as it is', async () => {
    await lab.daemon.stop();
    const path = join(lab.daemon.root, 'sluice.db');
    const change = (sql: string) => {
      const db = new DatabaseSync(path);
      db.exec(sql);
      db.close();
    };
    change("PRAGMA user_version = 99; UPDATE about SET value = 'Sluice 9.9.9' WHERE name = 'writer'");
    const before = readFileSync(path);
    await assert.rejects(lab.daemon.start(), /written by Sluice 9\.9\.9, whose store has version 99.*drain the node/s);
    assert.deepEqual(readFileSync(path), before);
    change('PRAGMA user_version = 1');
    await lab.daemon.start();
    await lab.assertSound();
  });
});

describe('a quota that is used up when the daemon starts', { skip: skip || SKIP_QUOTA }, () => {
  let lab: Lab;
  let disk: Disk;
  before(async () => {
    disk = await quotaInFile(32);
    lab = await openLab({ index: 25, root: disk.path });
  });
  after(async () => {
    await lab?.[Symbol.asyncDispose]();
    await disk?.[Symbol.asyncDispose]();
  });

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    test(`after ${signal}: the start, or what it makes room for, gives up the ballast, and the node can be emptied`, async () => {
      const ballast = join(lab.daemon.root, 'sluice.db.ballast');
      if (!existsSync(ballast)) {
        await lab.daemon.stop();
        await lab.daemon.start();
      }
      assert.ok(existsSync(ballast));
      const id = await lab.launch('up');
      await lab.daemon.stop(signal);
      const filler = join(disk.path, 'filler');
      fill(filler);
      try {
        assert.ok(freeBytes(disk.path) > 0, 'the file system itself has room');
        await lab.daemon.start();
        assert.equal(await stateOf(lab, id), PodSandboxState.SANDBOX_READY);
        await lab.stopAndRemove(id);
        assert.equal(await pendingWrites(lab), 0);
        // btrfs decides whether the start itself needs room: a new file may fit into a block of names that is there
        // already. A killed process leaves a WAL, whose end may have room for the changes, too.
        if (signal === 'SIGTERM') assert.ok(!existsSync(ballast), 'the ballast was given up');
      } finally {
        rmSync(filler);
      }
      await lab.assertSound(30_000);
    });
  }

  test('the daemon lives, a launch says that the disk is full, and the store can be read beside it', async () => {
    const pid = lab.daemon.pid();
    const id = await lab.launch('up');
    const filler = join(disk.path, 'filler');
    fill(filler);
    try {
      // Pages that were written to the disk take new room when they change again.
      await run('sync', ['-f', disk.path]);
      assert.ok(readOwners(lab.daemon.root).ids.has(id));
      await lab.daemon.cri.stopPodSandbox({ podSandboxId: id });
      await lab.launchFails('doomed', { code: GRPC.RESOURCE_EXHAUSTED, words: /store cannot be written|quota|full/i });
      await lab.daemon.cri.removePodSandbox({ podSandboxId: id });
      assert.equal(lab.daemon.pid(), pid, 'the same daemon all the time');
    } finally {
      rmSync(filler);
    }
    await lab.assertSound(30_000);
  });
});

describe('a file system that refuses all writes while the daemon runs', { skip }, () => {
  let lab: Lab;
  let disk: Disk;
  before(async () => {
    disk = await ext4InFile(256);
    lab = await openLab({ index: 24, root: disk.path, sandboxMode: 'pause' });
  });
  after(async () => {
    await lab?.[Symbol.asyncDispose]();
    await disk?.[Symbol.asyncDispose]();
  });

  test('the daemon lives, a pod whose pause process ends is not ready, and the row is written when it can be', async () => {
    const { daemon } = lab;
    const id = await lab.launch('dies');
    const { info } = await daemon.cri.podSandboxStatus({ podSandboxId: id, verbose: true });
    const pid = daemon.pid();
    // As after an error of the disk: ext4 gives up its journal, and every write fails until it is mounted anew.
    await run('mount', ['-o', 'remount,abort', disk.path]);
    process.kill(pausePid(info), 'SIGKILL');
    await waitFor('the pod to be not ready', 10_000, async () =>
      (await stateOf(lab, id)) === PodSandboxState.SANDBOX_NOTREADY ? true : undefined,
    );
    await sleep(1500); // a few retries
    assert.equal(daemon.pid(), pid);
    assert.ok((await pendingWrites(lab)) > 0);
    assert.match((await health(lab)).text, /the store cannot be written/);
    await lab.launchFails('refused', { words: /store cannot be written/ });
    const errors = daemon.log().match(/the store cannot be written: changes stay in memory/g) ?? [];
    assert.ok(errors.length >= 1 && errors.length <= 3, `${errors.length} lines in the log`);

    // The repaired file system comes back at the same place. It has what was on the disk.
    const repaired = join(lab.folder, 'repaired');
    cpSync(disk.path, repaired, { recursive: true, verbatimSymlinks: true, filter: (path) => !path.endsWith('-shm') });
    await run('mount', ['--bind', repaired, disk.path]);
    await waitFor('the changes to be written', 40_000, async () =>
      (await pendingWrites(lab)) === 0 ? true : undefined,
    );
    await isHealthy(lab);
    assert.equal(stored(join(disk.path, 'sluice.db'), id)?.state, 'notready');
    await lab.stopAndRemove(id);
    await lab.launch('again').then(lab.stopAndRemove);
    assert.equal(daemon.pid(), pid, 'the same daemon all the time');
  });
});
