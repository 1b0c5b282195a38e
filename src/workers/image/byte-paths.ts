/**
 * File names on Linux are bytes, and an archive may hold any. In this folder a path is a string with one byte per
 * character (latin1); `native` converts it to what Node's fs and sys/attributes.ts take.
 */

/** The string itself when it is ASCII, which is the fastest, else its bytes. */
export function native(path: string): string | Buffer {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a test for ASCII
  return /^[\x00-\x7f]*$/.test(path) ? path : Buffer.from(path, 'latin1');
}

/** Converts a string as main gives it (UTF-16) to one byte per character. */
export function toBytes(path: string): string {
  return Buffer.from(path, 'utf8').toString('latin1');
}

/** The components of a path, cleaned as text: without empty ones and `.`; `..` does not lead above the start. */
export function components(path: string): string[] {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..') parts.pop();
    else parts.push(part);
  }
  return parts;
}
