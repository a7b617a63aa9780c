// What to say of a module that the adapter changes and the base does not have.
import { quote } from '../errors.ts'
import type { Reading } from './reading.ts'

/** The names that transformers gives to heads which share the weight of the token embedding. */
const HEADS = /(^|\.)(lm_head|embed_out|output)$/

export function reportNoModule(module: string, target: string, { about, problems, base, isPartial }: Reading): void {
  if (base.has(`${target}.in_proj_weight`)) {
    problems.add(
      'adapter-base',
      `${about}: ${quote(module)} is an nn.MultiheadAttention, whose queries, keys and values are one tensor; it is not read`,
    )
  } else if (isPartial && !/\.layers\.\d+\./.test(module)) {
    problems.add(
      'adapter-target',
      `${about}: it changes ${quote(module)}, which is none of the linears of the base's layers; merge it into the ` +
        'checkpoint first, or train without it',
    )
  } else if (HEADS.test(module)) {
    problems.add(
      'adapter-base',
      `${about}: the base has no ${quote(`${target}.weight`)}; if its head is tied to its embedding, untie it ` +
        '(tie_word_embeddings=False) and save that as the base',
    )
  } else {
    problems.add(
      'adapter-base',
      `${about}: the base has no linear ${quote(module)}; the adapter was trained for another base`,
    )
  }
}
