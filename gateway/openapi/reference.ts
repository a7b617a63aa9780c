// Declared: the admin part of the reference itself.
import { z } from '@hono/zod-openapi'
import { forAdmins } from './declare.ts'

const tag = 'Reference'

export const reference = [
  forAdmins('get', '/openapi.json', {
    tag,
    summary: 'This document.',
    answers: { 200: z.looseObject({ openapi: z.literal('3.1.0') }) },
  }),
  forAdmins('get', '/docs', {
    tag,
    summary: 'This document as a page, to be saved and opened.',
    answers: { 200: { content: { 'text/html': z.string() } } },
  }),
]
