import { readText } from './files.ts';

const names = new Map<string, string>();

/** The path of a block device by its device number, from /sys; "" for one that does not exist. */
export function deviceName(major: number, minor: number): string {
  const id = `${major}:${minor}`;
  const known = names.get(id);
  if (known !== undefined) return known;
  const name = /^DEVNAME=(.+)$/m.exec(readText(`/sys/dev/block/${id}/uevent`) ?? '')?.[1];
  if (name === undefined) return ''; // not cached: the device may appear later
  names.set(id, `/dev/${name}`);
  return `/dev/${name}`;
}
