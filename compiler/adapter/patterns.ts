// rank_pattern and alpha_pattern. PEFT takes each key as a regex, `^(.*\.)?(KEY)$` on the module's path; the first that
// matches, in the order of the file, gives the value.
import { type Problems, quote } from '../errors.ts'
import type { Budget } from './regex/budget.ts'
import { PatternError } from './regex/pattern-error.ts'
import { compilePattern, type Program } from './regex/program.ts'
import { prefixMatch } from './regex/run.ts'

/** Word characters and dots: most keys, matched without a program. A dot stands for any character, as it does there. */
const LITERAL = /^[\w.]+$/
/** JavaScript moves such keys to the front of an object, so their place in the file is lost. */
const INDEX = /^(0|[1-9]\d*)$/

interface Rule {
  readonly key: string
  readonly value: number
  /** `undefined` where the key is literal. */
  readonly program: Program | undefined
}

export class ModulePatterns {
  readonly #rules: readonly Rule[]
  readonly #exact: ReadonlyMap<string, number>
  readonly #hasIndex: boolean
  readonly #field: string
  readonly #about: string
  readonly #problems: Problems
  readonly #budget: Budget

  /** Reports keys that cannot be run. */
  constructor(patterns: ReadonlyMap<string, number>, field: string, about: string, problems: Problems, budget: Budget) {
    this.#rules = [...patterns].flatMap(([key, value]): Rule[] => {
      if (LITERAL.test(key)) return [{ key, value, program: undefined }]
      const program = tryCompile(`(.*\\.)?(${key})$`, `${field} has the key ${quote(key)}`, about, problems, budget)
      return program === undefined ? [] : [{ key, value, program }]
    })
    this.#exact = patterns
    this.#hasIndex = [...patterns.keys()].some((key) => INDEX.test(key))
    this.#field = field
    this.#about = about
    this.#problems = problems
    this.#budget = budget
  }

  /** Throws `BudgetError`. */
  valueFor(module: string, fallback: number): number {
    const first = this.#rules.find((rule) => this.#matches(rule, module))
    // PEFT looks the path itself up where no pattern matched it.
    if (first === undefined) return this.#exact.get(module) ?? fallback
    if (this.#hasIndex) this.#checkOrder(first, module)
    return first.value
  }

  #checkOrder(first: Rule, module: string): void {
    const other = this.#rules.find((rule) => rule.value !== first.value && this.#matches(rule, module))
    if (other === undefined || !(INDEX.test(first.key) || INDEX.test(other.key))) return
    this.#problems.add(
      'adapter-pattern',
      `${this.#about}: in ${this.#field} both ${quote(first.key)} and ${quote(other.key)} match ${module}, and the ` +
        'order of a key that is a number cannot be told; write the full path of the module',
    )
  }

  #matches({ key, program }: Rule, module: string): boolean {
    this.#budget.spend(1)
    return program === undefined ? matchesSuffix(key, module) : prefixMatch(program, module, this.#budget)
  }
}

/** `undefined`, and a problem, where the pattern is outside the subset. */
export function tryCompile(
  source: string,
  what: string,
  about: string,
  problems: Problems,
  budget: Budget,
): Program | undefined {
  try {
    return compilePattern(source, budget)
  } catch (error) {
    if (!(error instanceof PatternError)) throw error
    problems.add(
      'adapter-pattern',
      `${about}: ${what}, a regex that is not run here: ${error.message}; write the names out`,
    )
    return undefined
  }
}

/** `^(.*\.)?(KEY)$` for a KEY of word characters and dots. */
function matchesSuffix(key: string, module: string): boolean {
  const start = module.length - key.length
  if (start < 0 || (start > 0 && module[start - 1] !== '.')) return false
  for (let i = 0; i < key.length; i += 1) if (key[i] !== '.' && key[i] !== module[start + i]) return false
  return true
}
