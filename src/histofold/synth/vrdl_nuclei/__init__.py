"""A synthetic folder in the layout of the nuclei homework of 2021, nuclei one by one."""
