import { runLine } from './program.ts';

// A reader that leaves early (`sluice pods | head -1`) is not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
process.exitCode = await runLine(process.argv.slice(2));
