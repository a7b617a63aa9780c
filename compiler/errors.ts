// What the compiler says about bad input: a typed error that carries every problem found, each with a stable code.

export type ProblemCode =
  | 'file-missing'
  | 'file-too-large'
  | 'json-invalid'
  | 'safetensors-invalid'
  | 'config-invalid'
  | 'config-unsupported'
  | 'tensor-missing'
  | 'tensor-unknown'
  | 'tensor-shape'
  | 'tensor-dtype'
  | 'tensor-not-finite'
  | 'adapter-name'
  | 'adapter-weight'
  | 'adapter-format'
  | 'adapter-option'
  | 'adapter-pattern'
  | 'adapter-pair'
  | 'adapter-rank'
  | 'adapter-target'
  | 'adapter-base'
  | 'merge-overflow'
  | 'quantise-option'
  | 'quantise-calibration'
  | 'quantise-overflow'
  | 'artifact-invalid'
  | 'onnx-invalid'
  | 'onnx-ambiguous'
  | 'onnx-unsupported'
  | 'onnx-unprobed'
  | 'onnx-adapter-invalid'
  | 'gguf-invalid'
  | 'gguf-unsupported'
  | 'file-unknown'
  | 'train-option'
  | 'train-data'
  | 'train-state'

export interface Problem {
  readonly code: ProblemCode
  /** Subject, what was found, the bound, what to do. */
  readonly message: string
}

/** A hostile file can be wrong in a million places; nobody reads more than this. */
const MAX_PROBLEMS = 50

/** The caller's input is wrong. `code` is that of the first problem; `message` lists all of them, one a line. */
export class InputError extends Error {
  override readonly name = 'InputError'
  readonly code: ProblemCode
  readonly problems: readonly Problem[]

  constructor(problems: readonly [Problem, ...Problem[]]) {
    super(problems.map((problem) => problem.message).join('\n'))
    this.code = problems[0].code
    this.problems = problems
  }
}

/** An `InputError` with one problem. */
export function inputError(code: ProblemCode, message: string): InputError {
  return new InputError([{ code, message }])
}

/** Gathers problems, so that one run reports all of them. */
export class Problems {
  readonly #list: Problem[] = []
  #omitted = 0

  add(code: ProblemCode, message: string): void {
    if (this.#list.length < MAX_PROBLEMS) this.#list.push({ code, message })
    else this.#omitted += 1
  }

  /** The result of `step`, or `undefined` when it threw an `InputError`, whose problems join the list. */
  async collect<T>(step: () => T | Promise<T>): Promise<T | undefined> {
    try {
      return await step()
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      for (const { code, message } of error.problems) this.add(code, message)
      return undefined
    }
  }

  throwIfAny(): void {
    const [first, ...rest] = this.#list
    if (first === undefined) return
    const more: Problem[] = this.#omitted > 0 ? [{ code: first.code, message: `… and ${this.#omitted} more` }] : []
    throw new InputError([first, ...rest, ...more])
  }
}

/** Our fault, never the input's. */
export function assert(condition: boolean, sentence: string): asserts condition {
  if (!condition) throw new Error(`sidepath bug: ${sentence}`)
}

/** Longest stretch of somebody else's text that an error repeats. */
const MAX_QUOTED_CHARS = 200

/** Untrusted text for an error message: quoted, control characters escaped, cut to a readable length. */
export function quote(text: string): string {
  return JSON.stringify(text.length > MAX_QUOTED_CHARS ? `${text.slice(0, MAX_QUOTED_CHARS)}…` : text)
}
