"""Documents: PDF, Office, HTML, notebooks and e-mail, read into text that a model can search.

Lives here: which formats there are and what each needs (`formats`), the process in which one document is read, with
its limits (`conversion` on the service's side, `program` and `confinement` in the process), the writer of the text
(`text_writer`), and one reader per format: `pdf_pages`, `word_text`, `slides`, `sheets`, `web_page`, `notebook_cells`,
`mail_message`.

Readers meet files that strangers made, so they run in the short-lived process only; the service itself imports
`formats` and `conversion` and never a reader or its library. Does not live here: telling what a file is (`detection`),
keeping the text (`redis_contexts`). Rooms that may import `service.contexts` may import this.
"""
