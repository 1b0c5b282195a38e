import { type FSWatcher, statSync, watch } from 'node:fs';
import { dirname } from 'node:path';

const SETTLE_MS = 150;
const POLL_MS = 2000;

/**
 * Tells when something in a folder has changed. The folder may be absent, appear, vanish and be replaced: until it is there, the
 * nearest folder above it is watched. Where the kernel has no watch left, the folder is looked at every two seconds.
 * Never throws and keeps no process alive.
 */
export class FolderWatch implements Disposable {
  readonly #folder: string;
  readonly #onChange: () => void;
  #watcher: FSWatcher | undefined;
  /** Device and inode of what is watched: a folder made anew under the same name is another one. */
  #watched = '';
  #settling: NodeJS.Timeout | undefined;
  #polling: NodeJS.Timeout | undefined;
  #closed = false;

  /** `onChange` comes a moment after the last of a burst of events, and may come without a change. */
  constructor(folder: string, onChange: () => void) {
    this.#folder = folder;
    this.#onChange = onChange;
    this.#arm();
  }

  /** Looks whether the watched folder is still the one at the path: a rename or mount above it is not told by the kernel. */
  verify(): void {
    if (!this.#closed && nearest(this.#folder).identity !== this.#watched) this.#settle();
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    this.#watcher?.close();
    clearTimeout(this.#settling);
    clearInterval(this.#polling);
  }

  #arm(): void {
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

/** The folder itself, or the nearest one above it that is there. */
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
