import { runLine } from './program.ts';

// A reader that leaves early (`sluice pods | head -1`) is not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
// A release is CommonJS, which cannot wait at this place. It never rejects.
void runLine(process.argv.slice(2)).then((status) => {
  process.exitCode = status;
});
