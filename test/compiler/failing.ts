// What a refused input looks like, for tests that say which refusal they mean.
import { expect } from 'vitest'
import { InputError, type ProblemCode } from '../../compiler/errors.ts'

/** The InputError that `step` throws; anything else fails the test. */
export async function refusal(step: () => Promise<unknown>): Promise<InputError> {
  const error = await step().then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof InputError)) {
    throw new Error(error === undefined ? 'the input was accepted' : `not an InputError: ${String(error)}`, {
      cause: error,
    })
  }
  return error
}

/** `step` is refused with exactly one problem: this code, and a message that has every one of these words. */
export async function expectRefusal(
  step: () => Promise<unknown>,
  code: ProblemCode,
  ...words: string[]
): Promise<void> {
  const { problems } = await refusal(step)
  expect(problems.map((problem) => problem.code)).toEqual([code])
  for (const word of words) expect(problems[0]?.message).toContain(word)
}
