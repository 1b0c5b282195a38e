import { takeDown } from '../../engine/stage.ts';
import { createContainer } from './create-container.ts';

/** Everything a creation made, taken back in the opposite order by the functions that undo a failed one. */
export const removeContainer = takeDown('RemoveContainer', createContainer, { reserve: 'forget' });
