// What a grant can be about: the acts on an adapter or a base, each of which is allowed by name.
import * as z from 'zod'

/** `list` shows a model that may be used; it never adds the use. */
export const ACTIONS = ['infer', 'list', 'train', 'merge', 'promote', 'admin'] as const
export type Action = (typeof ACTIONS)[number]

/** A set: at least one, each once, in the order of the table. */
export const Actions = z
  .array(z.enum(ACTIONS))
  .min(1)
  .transform((given): readonly Action[] => ACTIONS.filter((action) => given.includes(action)))
