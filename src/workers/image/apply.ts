/**
 * Unpacks one layer into a folder that becomes a lower layer of overlayfs. The rules are those of the OCI image specification
 * ("Image Layer Filesystem Changeset"), with whiteouts written as overlayfs reads them (kernel, Documentation/filesystems/overlayfs).
 */
import {
  chmodSync,
  closeSync,
  fchmodSync,
  fchownSync,
  ftruncateSync,
  lchownSync,
  linkSync,
  mkdirSync,
  openSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import {
  type BytePath,
  makeNode,
  S_IFBLK,
  S_IFCHR,
  S_IFIFO,
  setTimes,
  setTimesOf,
  setXattr,
} from '../sys/attributes.ts';
import { SysError } from '../sys/libc.ts';
import { TarError } from './tar-header.ts';
import type { TarEntry, TarSink } from './tar-reader.ts';
import { cleanPath, parentOf, printable, Tree, UNPACKING_MODE } from './tree.ts';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** Other names of aufs's own: nothing of the image. */
const AUFS = '.wh..wh.';
/** What a folder gets that only stands in other entries' names, unless a lower layer knows better. */
export const IMPLIED_MODE = 0o755;
const PAGE = 4096;

/** What the folder holds, once all is unpacked. */
export interface Applied {
  /** Bytes on disk, in whole pages. */
  bytes: number;
  inodes: number;
  /** Folders that the layer needs but does not describe: latin1 paths, parents first. A lower layer may. */
  implied: string[];
}

export class Applier implements TarSink {
  readonly #tree: Tree;
  readonly #umask: number;
  readonly #uid = process.geteuid?.() ?? 0;
  readonly #gid = process.getegid?.() ?? 0;
  readonly #folders = new Map<string, TarEntry>();
  readonly #implied = new Set<string>();
  /** Whiteouts of this layer: they hide what is below, never what this layer itself brings. */
  readonly #whiteouts = new Set<string>();
  #file: { fd: number; path: string; entry: TarEntry } | undefined;
  #bytes = PAGE;
  #inodes = 1;

  /** `root` is an empty folder; `umask` that of the process. */
  constructor(root: string, umask: number) {
    this.#umask = umask;
    this.#tree = new Tree(root, {
      onImplied: (path, whiteout) => this.#onImplied(path, whiteout),
      onRemoved: (path) => this.#forget(path),
      isWhiteout: (path) => this.#whiteouts.has(path),
    });
  }

  entry(entry: TarEntry): void {
    const clean = cleanPath(entry.name);
    const base = clean.slice(clean.lastIndexOf('/') + 1);
    if (base.startsWith(WHITEOUT)) {
      this.#whiteout(clean, base);
      if (entry.type === 'file') this.#file = undefined;
      return;
    }
    const path = this.#tree.place(clean);
    if (path === '' && entry.type !== 'folder') throw new TarError(`${printable(entry.name)} would replace the root`);
    switch (entry.type) {
      case 'folder':
        this.#folder(path, entry);
        break;
      case 'file':
        this.#openFile(path, entry);
        break;
      case 'hardlink':
        this.#hardLink(path, entry);
        break;
      default:
        this.#special(path, entry);
    }
  }

  data(bytes: Buffer, position: number): void {
    const file = this.#file;
    if (!file) return; // the content of a whiteout
    for (let at = 0; at < bytes.length; ) {
      at += writeSync(file.fd, bytes, at, bytes.length - at, file.entry.sparse ? position + at : null);
    }
    this.#bytes += bytes.length;
  }

  end(): void {
    const file = this.#file;
    if (!file) return;
    this.#file = undefined;
    try {
      const { fd, path, entry } = file;
      if (entry.sparse) ftruncateSync(fd, entry.size);
      if (this.#foreign(entry)) fchownSync(fd, entry.uid, entry.gid);
      if ((entry.mode & (this.#umask | 0o7000)) !== 0) fchmodSync(fd, entry.mode);
      this.#xattrs(this.#tree.at(path), entry);
      setTimesOf(fd, entry.atime ?? entry.mtime, entry.mtime);
      this.#bytes += -entry.size & (PAGE - 1);
    } finally {
      closeSync(file.fd);
    }
  }

  /** Gives folders their attributes, the deepest first: their times change as long as something is put into them. */
  finish(): Applied {
    for (const path of [...this.#folders.keys()].sort().reverse()) {
      const entry = this.#folders.get(path);
      if (entry) this.#attributes(this.#tree.at(path), entry);
    }
    const implied = [...this.#implied].sort();
    for (const path of implied) chmodSync(this.#tree.at(path), IMPLIED_MODE);
    return { bytes: this.#bytes, inodes: this.#inodes, implied };
  }

  /** Closes the file that was being written when something failed. */
  [Symbol.dispose](): void {
    if (this.#file) closeSync(this.#file.fd);
    this.#file = undefined;
  }

  #folder(path: string, entry: TarEntry): void {
    if (!this.#tree.isFolder(path)) {
      const hidLower = this.#whiteouts.has(path);
      this.#create(path, (at) => mkdirSync(at, UNPACKING_MODE));
      this.#tree.addFolder(path);
      this.#bytes += PAGE;
      // The whiteout that stood here made everything below disappear; the folder must go on to do so.
      if (hidLower) this.#makeOpaque(path);
    }
    this.#implied.delete(path);
    this.#folders.set(path, entry);
  }

  #openFile(path: string, entry: TarEntry): void {
    const mode = entry.mode & 0o777;
    const fd = this.#create(path, (at) => openSync(at, 'wx', mode));
    this.#file = { fd, path, entry };
  }

  #hardLink(path: string, entry: TarEntry): void {
    const target = this.#tree.place(entry.linkName);
    if (target === path) return;
    const stat = this.#tree.look(target);
    if (!stat || this.#whiteouts.has(target)) {
      throw new TarError(
        `${printable(entry.name)} links to ${printable(entry.linkName)}, which the layer does not hold`,
      );
    }
    if (stat.isDirectory()) throw new TarError(`${printable(entry.name)} is a hard link to a folder`);
    this.#create(path, (at) => linkSync(this.#tree.at(target), at));
    this.#inodes--; // of the file it links to
  }

  #special(path: string, entry: TarEntry): void {
    this.#create(path, (at) => {
      switch (entry.type) {
        case 'symlink':
          if (entry.linkName.includes('\0') || entry.linkName === '') {
            throw new TarError(`${printable(entry.name)} is a link to nothing`);
          }
          symlinkSync(Buffer.from(entry.linkName, 'latin1'), at);
          break;
        case 'fifo':
          makeNode(at, S_IFIFO | 0o600);
          break;
        default:
          makeNode(at, (entry.type === 'char' ? S_IFCHR : S_IFBLK) | 0o600, entry.devMajor, entry.devMinor);
      }
    });
    this.#attributes(this.#tree.at(path), entry);
  }

  #whiteout(clean: string, base: string): void {
    if (base === OPAQUE) {
      // `x` stands for any file of the folder: what matters is that its parents are made.
      this.#makeOpaque(parentOf(this.#tree.place(`${parentOf(clean)}/x`)));
      return;
    }
    if (base.startsWith(AUFS)) return;
    const hidden = base.slice(WHITEOUT.length);
    if (hidden === '' || hidden === '.' || hidden === '..') throw new TarError(`the whiteout ${printable(clean)}`);
    const path = this.#tree.place(`${parentOf(clean)}/${hidden}`);
    const stat = this.#tree.look(path);
    if (!stat) {
      makeNode(this.#tree.at(path), S_IFCHR);
      this.#whiteouts.add(path);
      this.#inodes++;
    } else if (stat.isDirectory()) this.#makeOpaque(path);
    // Any other file of this layer hides what is below by itself.
  }

  #makeOpaque(path: string): void {
    const at = this.#tree.at(path);
    if (!setXattr(at, 'trusted.overlay.opaque', Buffer.from('y'))) {
      throw new Error('the file system has no trusted.* attributes, which overlayfs needs');
    }
  }

  /** Makes something at `path`, in the place of what the layer had there before. */
  #create<T>(path: string, make: (at: BytePath) => T): T {
    const at = this.#tree.at(path);
    this.#inodes++;
    try {
      return make(at);
    } catch (error) {
      if (!isExisting(error)) throw error;
    }
    this.#tree.remove(path);
    this.#inodes--;
    return make(at);
  }

  #onImplied(path: string, whiteout: boolean): void {
    if (whiteout) this.#makeOpaque(path);
    this.#implied.add(path);
    this.#inodes++;
    this.#bytes += PAGE;
  }

  #forget(path: string): void {
    const below = `${path}/`;
    for (const known of [this.#folders, this.#implied, this.#whiteouts]) {
      if (known.size === 0) continue;
      known.delete(path);
      for (const other of known.keys()) if (other.startsWith(below)) known.delete(other);
    }
  }

  #foreign(entry: TarEntry): boolean {
    return entry.uid !== this.#uid || entry.gid !== this.#gid;
  }

  /** Owner, then mode (chown takes setuid away), then xattrs (and file capabilities), then times. */
  #attributes(at: BytePath, entry: TarEntry): void {
    if (this.#foreign(entry)) lchownSync(at, entry.uid, entry.gid);
    if (entry.type !== 'symlink') chmodSync(at, entry.mode);
    this.#xattrs(at, entry);
    setTimes(at, entry.atime ?? entry.mtime, entry.mtime);
  }

  #xattrs(at: BytePath, entry: TarEntry): void {
    for (const [name, value] of entry.xattrs) {
      if (name.startsWith('trusted.')) continue; // overlayfs's own: an image must not forge them
      try {
        setXattr(at, name, value);
      } catch (error) {
        // Only files and folders take user.* attributes.
        const refused = error instanceof SysError && error.code === 'EPERM' && name.startsWith('user.');
        if (!refused) throw error;
      }
    }
  }
}

const isExisting = (error: unknown) =>
  error instanceof Error && ['EEXIST', 'EISDIR'].includes((error as NodeJS.ErrnoException).code ?? '');
