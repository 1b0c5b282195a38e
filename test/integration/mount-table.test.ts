/** The mounts that listmount(2) and statmount(2) tell, beside what /proc/self/mountinfo says. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { SysError } from '../../src/sys/libc.ts';
import { MountTable } from '../../src/sys/mount-table.ts';
import { type MountPoint, parseMountinfo } from '../../src/sys/mountinfo.ts';
import { HostMounts } from '../../src/workers/host-paths/host-mounts.ts';
import { mountsBelow } from '../rig/leftovers.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';

const skip = skipUnlessRoot('mount') || missing();

/** Why the kernel is too old; false for one that has the calls. */
function missing(): string | false {
  try {
    new MountTable(() => false).refresh();
    return false;
  } catch (error) {
    if (error instanceof SysError) return `no listmount(2): ${error.code}`;
    throw error;
  }
}

let folder = '';
before(() => {
  if (!skip) folder = privateFolder('sluice-mounts');
});
after(async () => {
  if (skip) return;
  for (const path of mountsBelow(folder).reverse()) await run('umount', ['-l', path], { check: false });
  rmSync(folder, { recursive: true });
});

const at = (...names: string[]) => join(folder, ...names);
async function mounted(name: string, ...args: string[]): Promise<string> {
  mkdirSync(at(name), { recursive: true });
  await run('mount', [...args, at(name)]);
  return at(name);
}

/** What the text says is mounted on a path, the topmost; without what statmount(2) does not tell. */
function inText(path: string): MountPoint | undefined {
  const line = parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')).findLast((one) => one.mountPoint === path);
  if (!line) return undefined;
  const { superOptions: _, ...mount } = line;
  return mount;
}

test('every mount of this machine is found as the text has it', { skip }, () => {
  const table = new MountTable(() => false);
  table.refresh();
  const points = parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')).map(({ mountPoint }) => mountPoint);
  assert.ok(points.length > 0);
  // The text has a subtype ("fuse.sshfs") that statmount(2) has not.
  const bare = (mount: MountPoint | undefined) => mount && { ...mount, type: mount.type.split('.')[0] };
  for (const path of points.filter((one) => !one.startsWith('/tmp/'))) {
    assert.deepEqual(bare(table.at(path)), bare(inText(path)), path);
  }
});

test('mounts that come and go, lie on each other, and change how they propagate', { skip }, async () => {
  const table = new MountTable(() => false);
  table.refresh();
  const path = await mounted('a b', '-t', 'tmpfs', 'first');
  assert.equal(table.at(path), undefined, 'not seen yet');
  table.refresh();
  assert.deepEqual(table.at(path), inText(path));
  assert.equal(table.at(path)?.type, 'tmpfs');
  await run('mount', ['-t', 'ramfs', 'second', path]);
  table.refresh();
  assert.equal(table.at(path)?.type, 'ramfs');
  for (const how of ['--make-shared', '--make-slave', '--make-private']) {
    await run('mount', [how, path]);
    assert.deepEqual(table.at(path), inText(path), how);
  }
  await run('umount', [path]);
  assert.equal(table.at(path)?.type, 'tmpfs', 'also without another look at the table');
  await run('umount', [path]);
  assert.equal(table.at(path), undefined);
  table.refresh();
  assert.equal(table.at(path), undefined);
});

test('a mount that moves is found at neither place, or at the new one where it is looked at again', {
  skip,
}, async () => {
  const top = await mounted('top', '-t', 'tmpfs', 'top');
  await run('mount', ['--make-private', top]);
  const sure = new MountTable(() => false);
  const unsure = new MountTable((type) => type === 'ramfs');
  const path = await mounted('top/one', '-t', 'ramfs', 'one');
  for (const table of [sure, unsure]) table.refresh();
  mkdirSync(at('top/two/in'), { recursive: true });
  await run('mount', ['--move', path, at('top/two/in')]);
  renameSync(at('top/two'), at('top/three'));
  for (const table of [sure, unsure]) table.refresh();
  assert.equal(sure.at(path), undefined);
  assert.equal(sure.at(at('top/three/in'))?.type, 'ramfs', 'found by the look at its old place');
  assert.equal(unsure.at(path), undefined);
  assert.equal(unsure.at(at('top/three/in'))?.type, 'ramfs');
});

test('a thousand mounts are listed in more than one call when need be', { skip }, async () => {
  const top = await mounted('many', '-t', 'tmpfs', 'many');
  await run('mount', ['--make-private', top]);
  mkdirSync(join(top, 'deep'));
  await run('sh', ['-c', 'i=0; while [ $i -lt 13 ]; do mount --rbind "$0" "$0/deep" && i=$((i + 1)); done', top]);
  const lines = parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8'));
  const points = new Set(lines.map(({ mountPoint }) => mountPoint).filter((one) => one.startsWith(top)));
  const table = new MountTable(() => false);
  table.refresh();
  for (const path of points) assert.ok(table.at(path), path);
  await run('umount', ['-l', top]);
  table.refresh();
  for (const path of points) assert.equal(table.at(path), undefined, path);
});

test('HostMounts tells the mount of a path, and sees the next one at its next construction', { skip }, async () => {
  const path = at('host');
  mkdirSync(path);
  const early = new HostMounts();
  const below = early.of(path);
  await mounted('host', '-t', 'tmpfs', 'host');
  assert.deepEqual(early.of(path), below);
  assert.equal(new HostMounts().of(join(path, 'x/y'))?.mountPoint, path);
  assert.equal(new HostMounts().remote(path), undefined);
});
