import { ERRORS, GRPC } from '../src/errors.ts';

/** The rows of docs/errors.md, from the table in src/errors.ts: `node scripts/errors-doc.ts` prints them. */
export function errorRows(): string[] {
  const statusName = (status: number) =>
    Object.entries(GRPC).find(([, number]) => number === status)?.[0] ?? String(status);
  return Object.entries(ERRORS).map(
    ([code, { status, meaning }]) => `| ${code} | ${statusName(status)} | ${meaning} |`,
  );
}

if (import.meta.main) console.log(errorRows().join('\n'));
