/** The page at `/` of the metrics address: three files, sent as they are. What they show they fetch from /debug. */
import { readFileSync } from 'node:fs';

export interface PageFile {
  type: string;
  body: string;
  headers: Readonly<Record<string, string>>;
}

const FILES: Readonly<Record<string, { name: string; type: string }>> = {
  '/': { name: 'page.html', type: 'text/html; charset=utf-8' },
  '/page.css': { name: 'page.css', type: 'text/css; charset=utf-8' },
  '/page.js': { name: 'page.js', type: 'text/javascript; charset=utf-8' },
};

/** Nothing but these files and this server's answers: no other host, no inline script, no frame around it. */
const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache',
};

const read = new Map<string, PageFile>();

/** The file at a path of the URL, read once; undefined for every other path. */
export function pageFile(path: string): PageFile | undefined {
  if (!Object.hasOwn(FILES, path)) return undefined;
  const { name, type } = FILES[path] as (typeof FILES)[string];
  const known = read.get(path);
  if (known) return known;
  // The bundle of a release has the same folder beside it.
  const body = readFileSync(new URL(`./page/${name}`, import.meta.url), 'utf8');
  const file = { type, body, headers: HEADERS };
  read.set(path, file);
  return file;
}
