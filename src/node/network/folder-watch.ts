import { type FSWatcher, statSync, watch } from 'node:fs';
import { dirname } from 'node:path';
import { HostMounts } from '../../workers/host-paths/host-mounts.ts';
import { resolve } from '../../workers/host-paths/resolve.ts';

/** Quiet time after an event before the change is reported, so that one burst is one report. */
const SETTLE_MS = 150;
const POLL_MS = 2000;
/** In place of an identity: the folder is not to be touched on this thread. */
const REMOTE = 'on a mount that may hang';

/**
 * Reports changes in a folder by inotify. On a mount that may hang (NFS, FUSE), where inotify misses what other
 * machines change and adding a watch may block, it reports a possible change every two seconds. The folder may be
 * absent, appear, vanish and be replaced: while it is absent, its nearest existing ancestor is watched. When inotify
 * fails (ENOSPC: no watch left), it reports a possible change every two seconds. Never throws and keeps no process
 * alive.
 */
export class FolderWatch implements Disposable {
  readonly #folder: string;
  readonly #onChange: () => void;
  #watcher: FSWatcher | undefined;
  /** Path, device and inode of the watched folder; they differ when the folder is removed and created again. */
  #watched = '';
  #settling: NodeJS.Timeout | undefined;
  #polling: NodeJS.Timeout | undefined;
  #closed = false;

  /** `onChange` runs 150 ms after the last event of a burst. It may run without a change. */
  constructor(folder: string, onChange: () => void) {
    this.#folder = folder;
    this.#onChange = onChange;
    this.#arm();
  }

  /** Checks that the watched folder is still at the path. inotify reports neither a rename nor a mount above it. */
  verify(): void {
    if (!this.#closed && this.#watched !== REMOTE && nearest(this.#folder).identity !== this.#watched) this.#settle();
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    this.#watcher?.close();
    clearTimeout(this.#settling);
    clearInterval(this.#polling);
  }

  #arm(): void {
    if (mayHang(this.#folder)) {
      this.#watched = REMOTE;
      this.#poll();
      return;
    }
    const { path, identity } = nearest(this.#folder);
    if (this.#watcher && identity === this.#watched) return;
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#watched = identity;
    try {
      this.#watcher = watch(path, { persistent: false }, () => this.#settle());
      this.#watcher.on('error', () => this.#poll());
      clearInterval(this.#polling);
      this.#polling = undefined;
    } catch {
      this.#poll();
    }
  }

  #poll(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#polling ??= setInterval(() => this.#settle(), POLL_MS).unref();
  }

  #settle(): void {
    if (this.#closed) return;
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => {
      this.#arm();
      this.#onChange();
    }, SETTLE_MS).unref();
  }
}

function mayHang(folder: string): boolean {
  try {
    return resolve(folder, new HostMounts()).kind === 'remote';
  } catch {
    return false; // a broken link, or a file in its place: `nearest` finds what there is
  }
}

/** The folder itself, or its nearest existing ancestor. */
function nearest(folder: string): { path: string; identity: string } {
  for (let path = folder; ; path = dirname(path)) {
    try {
      const { dev, ino } = statSync(path);
      return { path, identity: `${path} ${dev}:${ino}` };
    } catch {
      if (path === dirname(path)) return { path, identity: path };
    }
  }
}
