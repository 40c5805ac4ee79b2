"""The page of a report: records in, one HTML file out that needs no network.

`page` puts it together; `charts`, `svg`, `heatmap`, `media` and `commands` make its parts;
`templates/` has the HTML, the styles and the script. `markdown` and `plots` write the same records
as a table for pull requests and as PNG files.
"""
