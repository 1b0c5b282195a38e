import { STAGES, type StageName } from '../../stages.ts';

/** Limit of stages that need none of their own: more than admission lets run. */
const FREE = 1024;

export interface StageLimit {
  limit: number;
  /** The rule, for the docs. */
  text: string;
}

/** The default limit of a stage, by its row in src/stages.ts, on a machine with `cores` cores. */
export function stageLimit(stage: StageName, cores: number): StageLimit {
  const { limit } = STAGES[stage];
  if (limit === 'free') return { limit: FREE, text: String(FREE) };
  if ('fixed' in limit) return { limit: limit.fixed, text: String(limit.fixed) };
  return {
    limit: Math.max(limit.least, limit.cores * cores),
    text: `${limit.cores} × cores, at least ${limit.least}`,
  };
}
