import { takeDown } from '../../engine/stage.ts';
import { createContainer } from './create-container.ts';

/** Takes back everything a creation made, in the opposite order, by the functions that undo a failed creation. */
export const removeContainer = takeDown('RemoveContainer', createContainer, { reserve: 'forget' });
